"""The parts that all members of the family share: arguments, keys, masks, plans, layers."""

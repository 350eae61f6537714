"""The operations of a store, by area: a plan for each, and the pair of methods that carry it out."""

"""How good a map is: faithful to the classifier, on the object, sensitive to what it should be, and at what cost.

All take one map for each image or several (`Maps`), and give figures for each map: what to average is the caller's.
"""

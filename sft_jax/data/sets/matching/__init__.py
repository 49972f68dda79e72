"""A made-up dataset with a known best accuracy: do events agree between two sequences?"""

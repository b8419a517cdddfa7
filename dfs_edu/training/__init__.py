"""A recipe, trained, kept, resumed and compared with others."""

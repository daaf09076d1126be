"""Recipes: what a user asks for, checked, with the origin of each value. Knows no torch."""

from luthier.recipe.load import Resolved, dump, leaves, load_recipe
from luthier.recipe.sections import Recipe

__all__ = ["Recipe", "Resolved", "dump", "leaves", "load_recipe"]

"""Language models as pure functions over a parameter tree, their files and their tokenizers."""

from dpg.models.checkpoint import load, save, without_weights
from dpg.models.model import LanguageModel, tied, untie
from dpg.models.tokenizer import Tokenizer

__all__ = ["LanguageModel", "Tokenizer", "load", "save", "tied", "untie", "without_weights"]

"""Class prompts: the sentences of each class, their embeddings, and adding a set to a cache."""

from ltcache.texts.adding import NAMED_TEMPLATES, add_class_texts, template_set
from ltcache.texts.encoding import encode_prompts
from ltcache.texts.sentences import class_sentences

__all__ = [
    "NAMED_TEMPLATES",
    "add_class_texts",
    "class_sentences",
    "encode_prompts",
    "template_set",
]

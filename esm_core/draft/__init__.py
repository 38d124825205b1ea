"""A first recipe for a folder of checkpoints: what is in it, what belongs together, and the text.

Names, headers and listings are read. Nothing is unpickled, and nothing but the recipe is written.
"""

from esm_core.draft.assemble import Draft, TaskDraft, draft
from esm_core.draft.page import recipe_text

__all__ = ["Draft", "TaskDraft", "draft", "recipe_text"]

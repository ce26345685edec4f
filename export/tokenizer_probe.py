"""Prompts of a finished artifact, checked before it is named: what the board will do."""

from __future__ import annotations

from edge.artifact import TEMPLATE_NAME, Artifact
from edge.errors import OnNote, UserError
from edge.questions.prompt import Prompter
from export.tokenizer import PROBES, TokenizerFiles


def check_prompts(artifact: Artifact, files: TokenizerFiles, on_note: OnNote) -> None:
    """Compares ids with the resolved rules on the probes, and makes a chat prompt.

    A template that does not compile or render, as transformers' loading lets it pass, is told to `on_note`.
    Raises UserError when the ids are others.
    """
    tokenizer = Prompter(artifact, "raw").tokenizer
    for text, without, whole in files.expected:
        for ids, special in ((without, False), (whole, True)):
            if tuple(tokenizer.encode(text, special=special)) != ids:
                raise UserError(
                    "tokenizer.json as written gives other ids than the checkpoint's files for "
                    f"{text[:40]!r}: please report it with the checkpoint's name"
                )
    if TEMPLATE_NAME in artifact.manifest.files:
        try:
            Prompter(artifact, "chat").prompt(PROBES[0])
        except UserError as error:
            on_note(f"--prompt chat will be refused: {str(error).replace(f'{artifact.path}/', '')}")

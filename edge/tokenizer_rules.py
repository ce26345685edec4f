"""How a checkpoint's tokenizer files were read when its artifact was built."""

from __future__ import annotations

from dataclasses import dataclass

from edge.fields import Fields, flag, list_of, text


@dataclass(frozen=True)
class TokenizerRules:
    """The rule by which tokenizer.json of an artifact was made, and what a prompt needs beside it.

    `reader` is the library whose reading holds, `tokenizer_class` its class, and `why` what named the class.
    `notes` are sentences about forms that transformers 5 reads otherwise, or that `reader` refuses.
    `additional_special_tokens` is what a template gets under that name. `templates` names the chat templates
    of a checkpoint that has several and none called default. `split_special_tokens` says that control tokens
    in any text are text.
    """

    reader: str
    tokenizer_class: str
    why: str
    notes: tuple[str, ...] = ()
    additional_special_tokens: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    split_special_tokens: bool = False

    @staticmethod
    def from_json(value: object) -> TokenizerRules:
        """Reads the object of `dataclasses.asdict`; raises FieldError when the value is none."""
        with Fields(value) as fields:
            return TokenizerRules(
                reader=fields.take("reader", text),
                tokenizer_class=fields.take("tokenizer_class", text),
                why=fields.take("why", text),
                notes=fields.take("notes", list_of(text)),
                additional_special_tokens=fields.take("additional_special_tokens", list_of(text)),
                templates=fields.take("templates", list_of(text)),
                split_special_tokens=fields.take("split_special_tokens", flag),
            )

"""The prompts that Doc-to-LoRA was published with, one entry for each family of base models.

Sources: the chat templates and the context affixes of the published code (arXiv 2602.15902). They
differ from the models' own templates: Gemma 2's own refuses the system message that every
document is put behind.
"""

from dataclasses import dataclass

from generator.prompt import PromptFormat


@dataclass(frozen=True, slots=True)
class Family:
    """Base models, by the last part of their names, that share a tokenizer and a prompt."""

    models: tuple[str, ...]
    prompt: PromptFormat


GEMMA_2 = Family(
    models=("gemma-2-2b-it", "gemma-2-9b-it", "gemma-2-27b-it"),
    prompt=PromptFormat(
        context_prefix_ids=(2, 106, 1645, 110),
        context_suffix_ids=(107, 108, 106, 2516, 108),
        chat_template=r"""
{{- bos_token -}}
{%- set turns = messages -%}
{%- if messages[0]['role'] == 'system' -%}
  {%- set system, turns = messages[0]['content'], messages[1:] -%}
{%- endif -%}
{%- for message in turns -%}
  {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
  {{- '<start_of_turn>' + role + '\n' -}}
  {%- if role == 'user' and loop.first and system is defined -%}
    {{- system + '\n\n' -}}
  {%- endif -%}
  {{- message['content'] if role == 'model' else message['content'] | trim -}}
  {{- '<end_of_turn>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<start_of_turn>model\n' -}}
{%- endif -%}
""".strip(),
    ),
)

MISTRAL = Family(
    models=("Mistral-7B-Instruct-v0.2",),
    prompt=PromptFormat(
        context_prefix_ids=(1, 733, 16289, 28793, 28705, 13, 13),
        context_suffix_ids=(733, 28748, 16289, 28793),
        chat_template=r"""
{{- bos_token -}}
{%- set turns = messages -%}
{%- if messages[0]['role'] == 'system' -%}
  {%- set system, turns = messages[0]['content'], messages[1:] -%}
{%- endif -%}
{%- for message in turns -%}
  {%- if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}
    {{- raise_exception('after a system message, if any, user and assistant must take turns') -}}
  {%- elif message['role'] == 'assistant' -%}
    {{- message['content'] + eos_token -}}
  {%- else -%}
    {{- ' [INST] ' -}}
    {%- if loop.first and system is defined -%}
      {{- system + '\n\n' -}}
    {%- endif -%}
    {{- message['content'] + ' [/INST] ' -}}
  {%- endif -%}
{%- endfor -%}
""".strip(),
    ),
)

QWEN_3 = Family(
    models=("Qwen3-4B-Instruct-2507",),
    prompt=PromptFormat(
        context_prefix_ids=(151644, 8948, 198, 151645, 198, 151644, 872, 198),
        context_suffix_ids=(151645, 198, 151644, 77091, 198),
        chat_template=r"""
{%- for message in messages -%}
  {{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\n' -}}
{%- endif -%}
""".strip(),
    ),
)

FAMILIES = (GEMMA_2, MISTRAL, QWEN_3)


def family_of(model: str) -> Family | None:
    """The family of a base model by its hub ID or folder; None if it is of none."""
    name = last_name(model)
    return next((family for family in FAMILIES if name in family.models), None)


def last_name(model: str) -> str:
    """What a model is called, without whose it is or where it lies."""
    return model.rstrip("/").rpartition("/")[2]

"""The chats that Text-to-LoRA was trained on, one template for each family of base models.

Source: the chat templates of the published code (arXiv 2506.06105). They differ from those of
Doc-to-LoRA (families.py) and from the models' own.
"""

from dataclasses import dataclass

from generator.importing.families import last_name

# Every conversation that it was trained and evaluated on had a system message, an empty one if need
# be. Without one the templates render no beginning of the sequence, for turns that follow others.
WITH_SYSTEM = r"""
{%- if messages[0]['role'] != 'system' -%}
  {%- set messages = [{'role': 'system', 'content': ''}] + messages -%}
{%- endif -%}
""".strip()


@dataclass(frozen=True, slots=True)
class TaskFamily:
    """Base models, by the last part of their names, that share a template."""

    models: tuple[str, ...]
    template: str


GEMMA_2 = TaskFamily(
    models=("gemma-2-2b-it", "gemma-2-9b-it", "gemma-2-27b-it"),
    template=r"""
{%- if messages[0]['role'] == 'system' -%}
  {{- bos_token -}}
{%- endif -%}
{%- for message in messages -%}
  {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
  {{- '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<start_of_turn>model\n' -}}
{%- endif -%}
""".strip(),
)

MISTRAL = TaskFamily(
    models=("Mistral-7B-Instruct-v0.2",),
    template=r"""
{%- set turns = messages -%}
{%- if messages[0]['role'] == 'system' -%}
  {{- bos_token -}}
  {%- set system, turns = messages[0]['content'], messages[1:] -%}
{%- endif -%}
{%- for message in turns -%}
  {%- if message['role'] == 'assistant' -%}
    {{- ' ' + message['content'] + eos_token -}}
  {%- elif message['role'] == 'user' -%}
    {{- ' [INST] ' -}}
    {%- if loop.first and system is defined -%}
      {{- system + '\n\n' -}}
    {%- endif -%}
    {{- message['content'] + ' [/INST]' -}}
  {%- else -%}
    {{- raise_exception('a system message comes first, all others are of user or assistant') -}}
  {%- endif -%}
{%- endfor -%}
""".strip(),
)

LLAMA_3_1 = TaskFamily(
    models=("Llama-3.1-8B-Instruct", "Meta-Llama-3.1-8B-Instruct"),
    template=r"""
{%- if messages[0]['role'] == 'system' -%}
  {{- bos_token -}}
{%- endif -%}
{%- for message in messages -%}
  {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' -}}
  {{- message['content'] | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
{%- endif -%}
""".strip(),
)

TASK_FAMILIES = (GEMMA_2, MISTRAL, LLAMA_3_1)


def task_family_of(model: str) -> TaskFamily | None:
    """The family of a base model by its hub ID or folder; None if it is of none."""
    name = last_name(model)
    return next((family for family in TASK_FAMILIES if name in family.models), None)


def chat_template_of(model: str) -> str | None:
    """What chats with the base model's adapters are rendered with; None for its own template, which
    is all that there is for a model of no family."""
    family = task_family_of(model)
    return None if family is None else f"{WITH_SYSTEM}\n{family.template}"

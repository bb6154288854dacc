"""Chat templates beside transformers' own rendering, character for character."""

import datetime
import json
import os
import string
import subprocess
import sys

import pytest

from dpg.errors import DpgError
from dpg.models import Tokenizer, chat, tokenizer

SPECIAL = ("<|endoftext|>", "<|eot|>", "<|start|>", "<|sep|>", "<unk>")
NAMES = {"bos_token": "<|endoftext|>", "eos_token": "<|eot|>", "unk_token": "<unk>"}

LLAMA_3 = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {{- raise_exception("This model only supports single tool-calls at once!") }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""  # noqa: E501, as published
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN = """{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n<tools>' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content.split('</think>')[-1].lstrip('\\n') }}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""  # noqa: E501
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}"
    "{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
    "{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + "
    "message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{'<start_of_turn>model\n'}}{% endif %}"
)
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""
PHI_3 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + "
    "message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + "
    "message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
COMMAND_R = [
    {"name": "tool_use", "template": "{{ bos_token }}TOOLS {{ tools | tojson(indent=2) }}"},
    {"name": "rag", "template": "{{ bos_token }}{% for d in documents %}{{ d.text }}{% endfor %}"},
    {
        "name": "default",
        "template": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = "
        "messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set "
        "loop_messages = messages %}{% set system_message = false %}{% endif %}"
        "{% if system_message != false %}<|SYSTEM_TOKEN|>{{ system_message }}{% endif %}"
        "{% for message in loop_messages %}{% set content = message['content'] %}"
        "{{ '<|' + message['role']|upper + '_TOKEN|>' + content.strip() }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|CHATBOT_TOKEN|>' }}{% endif %}",
    },
]
DEEPSEEK = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}"
    "{% endif %}"
    "{% set ns = namespace(is_first=false, is_tool=false, system_prompt='') %}"
    "{%- for message in messages %}{%- if message['role'] == 'system' %}"
    "{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{bos_token}}"
    "{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] == 'user' %}"
    "{%- set ns.is_tool = false -%}{{'<|User|>' + message['content']}}{%- endif %}"
    "{%- if message['role'] == 'assistant' and message['content'] is not none %}"
    "{% set content = message['content'] %}{% if '</think>' in content %}"
    "{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{'<|Assistant|>' + content + eos_token}}{%- endif %}{%- endfor -%}"
    "{% if add_generation_prompt and not ns.is_tool %}{{'<|Assistant|><think>\n'}}{% endif %}"
)
GENERATION = """{% for m in messages %}
{% if m['role'] == 'assistant' %}
    {%- generation -%}{{ m['content'] }}<|eot|>{%- endgeneration -%}
{% else %}
<|start|>{{ m['role'] }}
{{ m['content'] }}<|eot|>
{% endif %}
{% endfor %}
{% if add_generation_prompt %}<|start|>assistant
{% endif %}"""
MACROS = (
    "{% macro turn(role, content) %}{% set who = {'user': 'Human'}.get(role, role|title) %}"
    "{{ who }}: {{ content | replace('\"', \"'\") }}{{ caller() if caller }}\n{% endmacro %}"
    "{% for m in messages %}{{ turn(**m) }}{% endfor %}"
    "{% call turn('end', messages|map(attribute='role')|join(',')) %}!{% endcall %}"
)
LOOP_CONTROLS = (
    "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }};"
    "{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}"
)
JSON = (
    "{{ messages | tojson }}\n{{ {'b': '<é>&', 'a': [1, none, true]} | tojson(indent=2) }}"
    "{{ 'ö' | tojson(ensure_ascii=true) }}{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, "
    "separators=(',', ':')) }}"
)
TOKENS = (
    "{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ sep_token }}{{ pad_token }}{{ cls_token }}"
    "{{ mask_token }}{{ image_token }}{{ audio_token }}{{ unheard_of_token }}{{ add_bos_token }}"
    "{% if tools is not none %}tools{% endif %}{% if documents is none %}no documents{% endif %}"
)
DATES = "{{ strftime_now('%A, %B %-d, %Y; %d/%m/%y %H:%M:%S %j') }}"

TEMPLATES = {
    "llama-3": LLAMA_3,
    "chatml": CHATML,
    "qwen": QWEN,
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "zephyr": ZEPHYR,
    "phi-3": PHI_3,
    "command-r": COMMAND_R,
    "deepseek": DEEPSEEK,
    "generation": GENERATION,
    "macros": MACROS,
    "loop-controls": LOOP_CONTROLS,
    "json": JSON,
    "tokens": TOKENS,
    "dates": DATES,
}
CHATS = {
    "question": [{"role": "user", "content": "  Is <b>1 & 2</b> é?\n"}],
    "system": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
    "turns": [
        {"role": "user", "content": 'Say "no".'},
        {"role": "assistant", "content": "<think>hm</think>\nNo."},
        {"role": "user", "content": "Again"},
    ],
    "out-of-turn": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    "nothing-said": [{"role": "user", "content": "a", "name": None, "tool_calls": None}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer's directory, to be given templates."""
    path = tmp_path_factory.mktemp("tokenizer")
    texts = ["The quick brown fox jumps over the lazy dog. " * 3]
    tokenizer.train(texts, vocab_size=270, special=SPECIAL).save(path)
    return path


def both(folder, changes, files=()):
    """The directory with another configuration and further files, read by us and transformers."""
    transformers = pytest.importorskip("transformers")
    path = folder / "tokenizer_config.json"
    before = path.read_text()
    try:
        path.write_text(json.dumps({**json.loads(before), **NAMES, **changes}))
        for name, text in dict(files).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        return Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    finally:
        path.write_text(before)
        for name in dict(files):
            (folder / name).unlink()


@pytest.fixture
def frozen(monkeypatch):
    """transformers' clock at our frozen date."""
    module = pytest.importorskip("transformers.utils.chat_template_utils")

    class Clock(datetime.datetime):
        @classmethod
        def now(cls):
            return chat.FROZEN_DATE

    monkeypatch.setattr(module, "datetime", Clock)


def rendered(render):
    """What a rendering gives, or that it refuses."""
    try:
        return render()
    except Exception as error:  # each library has its own
        return "refused", "must alternate" in str(error), "not supported" in str(error)


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize("name", TEMPLATES)
def test_prompts_are_those_of_transformers(folder, name):
    more = {"sep_token": "<|sep|>", "image_token": "<|start|>", "add_bos_token": False}
    ours, theirs = both(
        folder,
        {
            **more,
            "chat_template": TEMPLATES[name],
            "extra_special_tokens": {"audio_token": "<|sep|>"},
        },
    )
    for messages in CHATS.values():
        for opened in (True, False):
            expected = rendered(
                lambda m=messages, o=opened: theirs.apply_chat_template(
                    m, add_generation_prompt=o, tokenize=False
                )
            )
            found = rendered(
                lambda m=messages, o=opened: ours.render_chat(m, add_generation_prompt=o)
            )
            assert found == expected, (messages, opened)
            if isinstance(expected, str):
                assert (
                    ours.chat(messages, add_generation_prompt=opened)
                    == (theirs(expected, add_special_tokens=False)["input_ids"])
                )


NAMED = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]


@pytest.mark.parametrize(
    ("config", "files"),
    [
        (NAMED, {}),
        (NAMED, {"chat_template.jinja": "file"}),
        (NAMED, {"chat_template.jinja": "file", "additional_chat_templates/rag.jinja": "R"}),
        (NAMED, {"additional_chat_templates/rag.jinja": "R"}),
        (NAMED[:1], {}),
        ({"default": "object", "other": "O"}, {}),
        ("text", {"additional_chat_templates/default.jinja": "D"}),
        (None, {}),
    ],
)
def test_the_template_that_transformers_chooses(folder, config, files):
    ours, theirs = both(folder, {} if config is None else {"chat_template": config}, files)
    ask = CHATS["question"]
    expected = rendered(lambda: theirs.apply_chat_template(ask, tokenize=False))
    assert rendered(lambda: ours.render_chat(ask)) == expected
    assert ours.has_chat_template == (config is not None)


def test_several_templates_are_kept_when_a_tokenizer_is_saved(folder, tmp_path):
    ours, _ = both(folder, {"chat_template": COMMAND_R})
    ours.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.render_chat(CHATS["system"]) == ours.render_chat(CHATS["system"])
    text = (tmp_path / "tokenizer_config.json").read_text()
    assert [one["name"] for one in json.loads(text)["chat_template"]] == [
        "tool_use",
        "rag",
        "default",
    ]


def test_a_missing_default_names_the_templates(folder):
    ours, _ = both(folder, {"chat_template": NAMED[:1]})
    with pytest.raises(DpgError, match="the chat templates tool_use; expected one named 'default'"):
        ours.render_chat(CHATS["question"])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}", "cannot be read"),
        ("{{ messages[0].content + 1 }}", "refuses these messages"),
        ("{{ 1 / 0 }}", "refuses these messages"),
        ("{{ raise_exception('users only') }}", "users only"),
        ("{{ messages.append(1) }}", "refuses these messages"),
        ("{{ ''.__class__.__mro__ }}", "refuses these messages"),
    ],
)
def test_a_template_that_fails_is_an_error_of_ours(template, message):
    with pytest.raises(DpgError, match=message):
        chat.ChatTemplate(template, {}).render(CHATS["question"])


@pytest.mark.parametrize("bad", [7, [{"name": "default"}], ["text"]])
def test_a_template_that_is_none_is_named(folder, bad):
    backend = Tokenizer.load(folder)._backend
    with pytest.raises(DpgError, match="chat_template is"):
        Tokenizer(backend, {"chat_template": bad})


def test_dates_are_those_of_strftime():
    """In the C locale and UTC, where the frozen date is what the platform's strftime gives."""
    patterns = [f"%{letter}" for letter in string.ascii_letters if letter not in "EOLKNPiqvQJ"]
    patterns += ["%-d", "%-m", "%-H", "%_H", "%-j", "%^a", "%^B", "100%%", "%d %b %Y", "no pattern"]
    script = (
        "import datetime, json, sys\n"
        "now = datetime.datetime(2024, 7, 26)\n"
        "print(json.dumps([now.strftime(p) for p in json.loads(sys.argv[1])]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(patterns)],
        env={**os.environ, "TZ": "UTC", "LC_ALL": "C"},
        capture_output=True,
        check=True,
        text=True,
    )
    expected = dict(zip(patterns, json.loads(done.stdout), strict=True))
    assert {p: chat.strftime_now(p) for p in patterns if expected[p] != p} == {
        p: text for p, text in expected.items() if text != p
    }


def test_the_record_says_which_template_and_which_date():
    one, other = chat.ChatTemplate("a", {}), chat.ChatTemplate({"default": "b", "rag": "a"}, {})
    assert one.record["date"] == "2024-07-26"
    assert one.record["sha256"] == chat.ChatTemplate("a", {"bos_token": "x"}).record["sha256"]
    assert one.record["sha256"] != other.record["sha256"]

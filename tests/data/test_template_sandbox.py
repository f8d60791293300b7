"""Chat templates that do not end, or not within memory: refused in a sentence; all others render as before."""

from __future__ import annotations

import resource
import time

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mlx_lora.data.chat_template import render
from mlx_lora.data.template_sandbox import BoundedEnvironment
from mlx_lora.errors import UserError
from mlx_lora.models.tokenizer import load_tokenizer

CHAT = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]
R = "range(100000)"
DOUBLED = "{% set ns = namespace(x='ab') %}{% for i in range(60) %}"
ENDLESS = {
    "nested loops": f"{{% for a in {R} %}}" * 3 + "{% endfor %}" * 3,
    "loops with a test": f"{{% for a in {R} %}}{{% for b in {R} if b < 0 %}}{{% endfor %}}{{% endfor %}}",
    "a recursive loop": f"{{% for a in {R} recursive %}}{{{{ loop({R}) if loop.depth < 9 }}}}{{% endfor %}}",
    "macros": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "a macro without end": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "text times number": "{{ 'a' * 10 ** 10 }}",
    "list times number": "{{ ([0] * 10 ** 9) | length }}",
    "doubled text": DOUBLED + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "added text": DOUBLED + "{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
    "doubled list": DOUBLED + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "doubled list as JSON": DOUBLED + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
    "doubled list compared": DOUBLED + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x == ns.x[:] }}",
    "captured text": DOUBLED + "{% set t %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = t %}{% endfor %}{{ ns.x }}",
    "joined text": DOUBLED + "{% set ns.x = [ns.x, ns.x] | join(ns.x) %}{% endfor %}",
    "joined by a method": DOUBLED + "{% set ns.x = ns.x.join([ns.x, ns.x, ns.x]) %}{% endfor %}",
    "replaced text": DOUBLED + "{% set ns.x = ns.x | replace('a', ns.x) %}{% endfor %}",
    "replaced by a method": DOUBLED + "{% set ns.x = ns.x.replace('a', ns.x) %}{% endfor %}",
    "translated text": DOUBLED + "{% set ns.x = ns.x.translate({97: ns.x}) %}{% endfor %}",
    "doubled arguments": "{% macro m(x, n) %}{% if n %}{{ m(x ~ x, n - 1) }}{% endif %}{% endmacro %}{{ m('ab', 60) }}",
    "doubled by with": DOUBLED + "{% with y = ns.x ~ ns.x %}{% set ns.x = y %}{% endwith %}{% endfor %}{{ ns.x }}",
    "doubled by loops": "{% set x = 'a' * 50000 %}" + "{% for x in [x ~ x ~ x] %}" * 18 + "{% endfor %}" * 18,
    "printed often": f"{{% set x = 'a' * 60000 %}}{{% for i in {R} %}}{{{{ x }}}}{{% endfor %}}",
    "captured often": f"{{% set y %}}{{% for i in {R} %}}{{{{ 'a' * 60000 ~ i }}}}{{% endfor %}}{{% endset %}}",
    "centered": "{{ 'a' | center(10 ** 10) }}",
    "centered by a method": "{{ 'a'.center(10 ** 10) }}",
    "zeros": "{{ 'a'.zfill(10 ** 10) }}",
    "indented": "{{ ('a\\n' * 10000) | indent(100000) }}",
    "indented JSON": "{{ [[[[1]]]] | tojson(indent=10 ** 9) }}",
    "tabs": "{{ ('\\t' * 10000).expandtabs(1000000) }}",
    "columns": "{{ '%9999999999d' % 1 }}",
    "starred columns": "{{ '%*d' % (9999999999, 1) }}",
    "formatted columns": "{{ '{:9999999999}'.format(1) }}",
    "inner columns": "{{ '{:{}}'.format(1, 9999999999) }}",
    "the format filter": "{{ '%9999999999d' | format(1) }}",
    "digits": "{{ 9 ** (9 ** 9) }}",
    "multiplied digits": DOUBLED.replace("'ab'", "99") + "{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "bytes": "{{ (1).to_bytes(10 ** 10, 'big') }}",
    "rounded": "{{ 1.5 | round(10 ** 9) }}",
    "summed lists": "{{ ([[1] * 1000] * 100000) | sum(start=[]) | length }}",
    "slices": f"{{% for i in {R} %}}{{{{ ({R} | list)[1:] | length }}}}{{% endfor %}}",
    "a list searched": f"{{% set l = {R} | list %}}{{% for i in {R} %}}{{{{ -1 in l }}}}{{% endfor %}}",
    "a sliced list": "{{ 'abc' | slice(10 ** 9) | list }}",
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("builtin/tiny-lumen")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENDLESS)
def test_what_does_not_end_is_a_sentence(monkeypatch, tokenizer, kind):
    monkeypatch.setattr(tokenizer, "chat_template", ENDLESS[kind])
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.thread_time()
    with pytest.raises(UserError, match="refuses this conversation") as error:
        render(tokenizer, CHAT)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="refuses this conversation"):
        render(tokenizer, CHAT[:1])
    # Both with a wide margin; without the limits they would be hours and terabytes.
    assert time.thread_time() - started < 30
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 2**30


FINITE = [
    "{% for i in range(3) if i %}{{ loop.index }}{{ loop.last }}{{ loop.length }}{% endfor %}",
    "{% for a in [1, [2, [3]]] recursive %}{{ loop(a) if a is iterable else a }}{% endfor %}",
    "{% for k, v in {'a': 1}.items() %}{{ k ~ v }}{% else %}none{% endfor %}",
    "{% macro m(a, b=2) %}{{ a }}{{ b }}{{ caller() if caller }}{% endmacro %}{{ m(1) }}{% call m(1) %}x{% endcall %}",
    "{% set x | upper %}a{{ 1 }}b{% endset %}{{ x }}{% set y %}{% endset %}[{{ y }}]",
    "{% filter upper %}a{{ 'b' }}{% endfilter %}{% with a = 'b' ~ 1 %}{{ a }}{% endwith %}",
    "{{ '%05d|%s' % (1, 'a') }}{{ '{:>5}|{a}'.format(1, a=2) }}{{ '%s' | format('x') }}{{ '-' * 5 }}{{ 2 ** 10 }}",
    "{{ [1, 2] | join(', ') }}{{ 'aXb'.replace('X', '--') }}{{ {'a': [1]} | tojson(indent=2) }}{{ 'a' | center(5) }}",
    "{{ [3, 1] | sort | map('string') | list }}{{ 2.345 | round(1) }}{{ [[1], [2]] | map('first') | sum }}",
    "{% set ns = namespace(n=0) %}{% for i in range(9) %}{% set ns.n = ns.n + i %}{% if i == 5 %}{% break %}{% endif %}"
    "{% endfor %}{{ ns.n }}",
]


@pytest.mark.parametrize("template", FINITE)
def test_what_ends_renders_as_in_the_plain_sandbox(template):
    options = {"trim_blocks": True, "lstrip_blocks": True, "extensions": ["jinja2.ext.loopcontrols"]}
    plain = ImmutableSandboxedEnvironment(**options).from_string(template).render()
    assert BoundedEnvironment(**options).from_string(template).render() == plain
    assert plain


def test_long_conversations_have_room(monkeypatch, tokenizer):
    ends = "{% for m in messages %}{{ m.content }}{% endfor %}"
    gathered = (
        "{% set ns = namespace(x='') %}{% for m in messages %}{% set ns.x = ns.x ~ m.content %}{% endfor %}{{ ns.x }}"
    )
    nested = "{% for m in messages %}{% for n in messages %}{{ 'x' if n == m and loop.first }}{% endfor %}{% endfor %}"
    chat = [{"role": r, "content": f"{i}" + "word " * 200} for i in range(500) for r in ("user", "assistant")]
    for template in (ends, gathered, nested):
        monkeypatch.setattr(tokenizer, "chat_template", template)
        assert render(tokenizer, chat)
    monkeypatch.setattr(tokenizer, "chat_template", ends)
    assert len(render(tokenizer, [{"role": "user", "content": "word" * 2**24}])) == 2**26

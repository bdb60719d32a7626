"""Does the candidate's liquid do what the original does, on templates that no page holds? Frozen.

usage: check.py PACKAGES; with `--answer FOLDER` it is one side of the comparison, in a process of
its own, and writes what it rendered, errors included, as JSON.

The package comes without its tests: this stands in for them. Every filter gets every value with
every list of arguments; tags, scopes, white space, drops, undefined and subclasses follow.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILTERS = """abs append at_least at_most base64_decode base64_encode capitalize ceil compact concat
date default divided_by downcase escape escape_once find find_index first floor has join last lstrip
map minus modulo newline_to_br plus prepend reject remove remove_first remove_last replace
replace_first replace_last reverse round rstrip safe size slice sort sort_natural sort_numeric split
strip strip_html strip_newlines sum times truncate truncatewords uniq upcase url_decode url_encode
where""".split()
VALUES = ["'a <b> &amp; c'", "''", "3", "-2.75", "'7'", "nil", "words", "goods", "thing", "(1..4)"]
ARGUMENTS = ["", "2", "'a'", "0", "1, 2", "'title'", "'a', 'x'", "'n', 2", "nil", "words", "1.5"]
TEMPLATES = """
{% if a == 1 and b != 2 or c contains 'x' %}yes{% elsif thing.a > 1 %}no{% else %}else{% endif %}
{% unless thing.none %}u{% else %}e{% endunless %}
{% case thing.a %}{% when 1, 2 %}low{% when 3 or 4 %}mid{% else %}?{% endcase %}
{% for w in words %}{{ forloop.index }}/{{ forloop.length }} {{ w }}{% else %}none{% endfor %}
{% for w in words reversed limit: 2 offset: 1 %}{{ w }}{{ forloop.rindex0 }}{% endfor %}
{% for w in words limit: 1 %}{{ w }}{% endfor %}{% for w in words offset: continue %}{{ w }}{% endfor %}
{% for a in (1..3) %}{% for b in words %}{{ forloop.parentloop.index }}{{ b }}{% break %}{% endfor %}{% endfor %}
{% for p in thing %}{{ p[0] }}={{ p[1] }};{% endfor %}{% for c in 'text' %}{{ c }}{% endfor %}
{% for w in words %}{% if w == 'b' %}{% continue %}{% endif %}{{ w }}{% endfor %}
{% tablerow g in goods cols: 2 limit: 3 %}{{ g.title }}{{ tablerowloop.col_last }}{% endtablerow %}
{% assign x = words | join: '-' | upcase %}{{ x }}{% assign y = nil %}{{ y }}{{ x.size }}
{% capture c %}<{{ thing.a }}>{% endcapture %}{{ c }}{{ c | escape }}
{% cycle 'a', 'b' %}{% cycle 'a', 'b' %}{% cycle 'g': 1, 2 %}{% cycle 'g': 1, 2 %}
{% increment n %}{% increment n %}{% decrement n %}{% decrement m %}{{ n }}
{%- liquid
  assign q = 1
  for w in words
    echo w | append: q
    assign q = q | plus: 1
  endfor
-%}  tail
  {{- 'x' -}}  y {%- if true -%}  z  {%- endif %}  !
{% raw %}{{ a }}{% if %}{% endraw %}{% comment %}{{ oops }} {% if %}{% endcomment %}{# no #}
{{ thing.b.c[0] }}{{ thing['b']['c'].last }}{{ words.first }}{{ words[-1] }}{{ words.size }}{{ thing.size }}
{{ thing[key].c | join }}{{ nothing.at.all }}{{ nothing[0] }}{{ words['x'] }}{{ goods[0].title }}
{{ 'x' | default: 'y' }}{{ nil | default: 'y' }}{{ false | default: 'y', allow_false: true }}
{% include 'part' %}{% include 'part' with thing %}{% include 'part' for goods as g %}{{ leaked }}
{% render 'part' %}{% render 'part', a: 5 %}{% render 'part' for goods as part %}{% render 'part' with thing as t %}
{{ blank }}{{ empty }}{% if '' == empty %}e{% endif %}{% if '  ' == blank %}b{% endif %}{% if words == empty %}w{% endif %}
{{ 1.0 }}{{ 10 | divided_by: 3 }}{{ 10 | divided_by: 3.0 }}{{ 1e3 }}{{ -5 }}{{ true }}{{ (1..3) }}{{ words }}{{ thing }}
{{ drop }}{{ drop.name }}{{ drop.missing }}{{ drop['name'] | upcase }}{% if drop %}d{% endif %}
{% if 1 %}unclosed
{{ 'unclosed
{% unknown %}
{{ a | nofilter }}
{{ a | plus: }}
{% for in %}{% endfor %}
{% assign = 1 %}
{% endif %}
{% if a = 1 %}{% endif %}
{{ 'a' | plus: 'b' | divided_by: 0 }}
{% render 'missing' %}
{% case %}{% endcase %}
{{ a.b. }}
{{ [ }}
{% if a < 'x' %}{% endif %}
{% ifchanged %}{% endifchanged %}{{ words | join: ', ' | split: ', ' | first | append: "'" | append: '"' }}
""".strip().split("\n{")  # noqa: E501
DATA = {
    "a": 1,
    "b": 3,
    "c": "xyz",
    "key": "b",
    "words": ["b", "a", "C", "a"],
    "goods": [{"title": "t1", "n": 2}, {"title": "t0", "n": 1}, {"title": "t1", "n": 2}],
    "thing": {"a": 3, "b": {"c": [1, 2]}, "title": "T"},
}
PART = "[{{ part.title }}{{ a }}{{ t.a }}{{ g.n }}{{ forloop.index }}]{% assign leaked = 'l' %}"


def said(render):
    """What it gives, or the error that it raises, as a text."""
    try:
        return render()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def answers():
    import liquid

    class Named(dict):
        def __liquid__(self):
            return "as liquid"

    class Quoted(liquid.Environment):
        autoescape = True

        def setup_tags_and_filters(self, **more):
            super().setup_tags_and_filters(**more)
            self.add_filter("twice", lambda value: f"{value}{value}")

    data = DATA | {"drop": Named(name="n")}
    filters = [
        f"{{{{ {value} | {name}{': ' * bool(given)}{given} }}}}"
        for name in FILTERS
        for value in VALUES
        for given in ARGUMENTS
    ]
    templates = ["{" + text if number else text for number, text in enumerate(TEMPLATES)]
    loader = liquid.DictLoader({"part": PART})
    plain = liquid.Environment(loader=loader)
    strict = liquid.Environment(loader=loader, undefined=liquid.StrictUndefined)
    lax = liquid.Environment(loader=loader, tolerance=liquid.Mode.LAX)
    quoted = Quoted(loader=loader, globals={"site": "<s>"})
    for text in filters:
        yield said(lambda text=text: plain.from_string(text).render(**data))
    for text in templates:
        for environment in (plain, strict, lax, quoted):
            yield said(lambda e=environment, text=text: e.from_string(text).render(**data))
        yield said(lambda text=text: asyncio.run(plain.from_string(text).render_async(**data)))
        yield said(lambda text=text: str(plain.from_string(text)))
    yield said(lambda: quoted.from_string("{{ site | twice }}{{ x }}", globals={"x": "<"}).render())
    yield said(lambda: sorted(plain.from_string(templates[0]).variables()))
    twice = plain.from_string("{% assign z = z | append: 'z' %}{{ z }}{% cycle 1, 2 %}")
    yield twice.render()
    yield twice.render()


def side(folder, packages):
    command = [sys.executable, "-I", str(HERE / "check.py"), packages, "--answer", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, cwd="/")
    if done.returncode:
        sys.exit(f"{folder.name} ended with exit code {done.returncode}.")
    return json.loads(done.stdout)


def main():
    if "--answer" in sys.argv:
        sys.path[:0] = [sys.argv[3], sys.argv[1]]
        json.dump([*answers()], sys.stdout)
        return
    packages = str(Path(sys.argv[1]).resolve())
    wanted, given = side(HERE / "original", packages), side(HERE, packages)
    wrong = [(a, b) for a, b in zip(wanted, given, strict=False) if a != b]
    if wrong or len(wanted) != len(given):
        sys.exit(f"{len(wrong)} of {len(wanted)} differ: {wrong[:3]}")
    print(f"{len(wanted)} renderings are the same.")


main()

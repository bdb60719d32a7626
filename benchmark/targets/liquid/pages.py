"""Theme-like Liquid pages from a seed: templates and their data. Frozen during a run."""

import random

NOUNS = (
    "lamp river stone garden coffee summer paper candle mirror kettle blanket shelf forest"
    " island meadow marble winter basket leather pillow harbour cedar amber copper"
).split()


def words(dice, low, high):
    return " ".join(dice.choice(NOUNS) for _ in range(dice.randint(low, high)))


def handle(dice):
    return f"{dice.choice(NOUNS)}-{dice.choice(NOUNS)}-{dice.randint(1, 999)}"


def product(dice):
    price = dice.randint(400, 60_000)
    variants = [
        {
            "id": dice.randint(1_000, 9_999),
            "title": words(dice, 1, 2),
            "price": price + dice.randint(0, 3_000),
            "available": dice.random() < 0.8,
            "options": [dice.choice(NOUNS), dice.choice(NOUNS)],
        }
        for _ in range(dice.randint(1, 5))
    ]
    return {
        "id": dice.randint(10_000, 99_999),
        "title": words(dice, 2, 4),
        "handle": handle(dice),
        "vendor": dice.choice(NOUNS).title(),
        "price": price,
        "before": price + dice.choice([0, 0, 1_200, 5_000]),
        "text": f"<p>{words(dice, 8, 30)}</p> <em>{words(dice, 2, 6)}</em>",
        "tags": [dice.choice(NOUNS) for _ in range(dice.randint(0, 5))],
        "available": any(variant["available"] for variant in variants),
        "variants": variants,
        "images": [{"src": f"/cdn/{handle(dice)}.jpg", "alt": words(dice, 1, 3)}],
        "kind": dice.choice(["home", "kitchen", "garden"]),
    }


def markup(dice):
    name = dice.choice(NOUNS)
    return f'<div class="{name} {name}--{dice.randint(1, 9)}"><p>{words(dice, 3, 14)}</p></div>\n'


def card(dice):
    extra = dice.choice(
        [
            "{% unless item.available %}<s>{{ 'sold out' | upcase }}</s>{% endunless %}",
            "{% if item.vendor != blank %}<i>{{ item.vendor | escape }}</i>{% endif %}",
            "{{ item.text | strip_html | truncatewords: 8 }}",
        ]
    )
    return (
        f"{{%- comment -%}} {words(dice, 4, 12)} {{%- endcomment -%}}\n"
        '<article class="card--{{ item.kind | default: "plain" }}" id="p-{{ item.id }}">\n'
        '<a href="/products/{{ item.handle }}{% if ref %}?ref={{ ref | url_encode }}{% endif %}">'
        '<img src="{{ item.images[0].src }}" alt="{{ item.images.first.alt | escape }}">'
        "<h3>{{ item.title | capitalize | truncate: 24 }}</h3></a>\n"
        "{%- if item.before > item.price -%}"
        "{%- assign saved = item.before | minus: item.price | times: 100"
        " | divided_by: item.before -%}"
        "<b>{{ item.price | divided_by: 100.0 }} -{{ saved }}%</b>"
        "{%- else -%}<b>{{ item.price | divided_by: 100.0 }}</b>{%- endif -%}\n"
        f"{extra}</article>\n"
    )


def icon(dice):
    whens = "".join(
        f"{{%- when '{name}' or '{name}s' -%}}<svg class='{name}'></svg>"
        for name in [*dice.sample(NOUNS, 4), "home", "kitchen"]
    )
    return f"{{%- case icon -%}}{whens}{{%- else -%}}<svg></svg>{{%- endcase -%}}"


def grid(dice, n):
    return f"""<section id="s{n}">{markup(dice)}
<h2>{{{{ collection.title | upcase }}}} ({{{{ collection.products.size }}}})</h2>
{{% for product in collection.products limit: {dice.randint(4, 9)} offset: {dice.randint(0, 2)} %}}
{{%- if forloop.first %}}<ul>{{% endif -%}}
<li class="{{% cycle 'odd', 'even' %}}" data-at="{{{{ forloop.index }}}}">
{{%- render 'card-{n}', item: product, ref: campaign %}}
{{%- render 'icon-{n}', icon: product.kind %}}</li>
{{%- if forloop.last %}}</ul>{{% endif -%}}
{{% else %}}<p>{words(dice, 2, 5)}</p>{{% endfor %}}</section>
"""


def variants(dice, n):
    return f"""<form id="s{n}">{{%- assign hero = collection.products[{dice.randint(0, 3)}] -%}}
{{% capture heading %}}{{{{ hero.vendor }}}}: {{{{ hero.title
| replace: '{dice.choice(NOUNS)}', '-' }}}}
{{%- endcapture %}}
<h1>{{{{ heading | strip | escape }}}}</h1>{markup(dice)}
{{% for variant in hero.variants %}}
{{% if variant.available and variant.price > {dice.randint(500, 9_000)} or preorder == true %}}
<option value="{{{{ variant.id }}}}"{{% if forloop.index0 == 0 %}} selected{{% endif %}}>
{{{{- variant.title }}}} / {{{{ variant.options | join: ', ' }}}}
{{{{ variant.price | times: 1.2 | round: 2 }}}}</option>
{{% elsif variant.available %}}<option disabled>{{{{ variant.title | append: ' - out' }}}}</option>
{{% else %}}{{% continue %}}{{% endif %}}{{% endfor %}}
{{% for tag in hero.tags %}}
{{%- unless tag contains '{dice.choice("aeiou")}' %}}
<a>{{{{ tag }}}}</a>{{% endunless %}}{{% endfor %}}</form>
"""


def menu(dice, n):
    links = "".join(
        f'<li{{% if page.handle == "{name}" %}} class="on"{{% endif %}}>{name}</li>\n'
        for name in (handle(dice) for _ in range(dice.randint(3, 7)))
    )
    return f"""<nav id="s{n}"><ul>{links}</ul>
{{% for link in menu.links %}}<a href="{{{{ link.url }}}}">{{{{ link.title | capitalize }}}}</a>
{{%- if link.links.size > 0 %}}<div>{{% for child in link.links %}}
<a href="{{{{ child.url | prepend: link.url }}}}">{{{{ child.title | escape }}}}</a>
{{%- endfor %}}</div>{{% endif -%}}
{{% endfor %}}</nav>
"""


def basket(dice, n):
    parts = "|".join(dice.choice(NOUNS) for _ in range(dice.randint(3, 8)))
    return f"""{{%- liquid
  assign total = 0
  for line in cart.items
    assign cost = line.price | times: line.quantity
    assign total = total | plus: cost
    if total > {dice.randint(9_000, 90_000)}
      echo '<b>free</b>'
      break
    endif
  endfor
  assign sorted = collection.products | where: 'available' | sort: 'price'
  assign names = sorted | map: 'title' | uniq | join: ', '
-%}}
<aside id="s{n}">{markup(dice)}{{{{ total | divided_by: 100.0 | round: 2 }}}}
{{{{ names | truncate: 100 }}}}
{{% assign parts = "{parts}" | split: "|" %}}{{% for part in parts reversed %}}
{{{{- part | slice: 0, 3 }}}}{{% unless forloop.last %}}, {{% endunless %}}{{% endfor %}}</aside>
"""


SECTIONS = [grid, variants, menu, basket]


def page(seed, number):
    """The templates by name (`index` is the page) and the data, as JSON has it."""
    dice = random.Random(f"{seed}/{number}")
    sources, body = {}, []
    for n in range(dice.randint(5, 8)):
        section = SECTIONS[n] if n < len(SECTIONS) else dice.choice(SECTIONS)
        body.append(section(dice, n) + "".join(markup(dice) for _ in range(dice.randint(0, 3))))
        if section is grid:
            sources |= {f"card-{n}": card(dice), f"icon-{n}": icon(dice)}
    dice.shuffle(body)
    sources["index"] = (
        "<title>{{ page.title }}{% if page.tags %} {{ page.tags | join: ', ' }}{% endif %} | "
        f"{{{{ shop.name }}}}</title>\n{''.join(body)}"
        "<footer>{% raw %}{{ raw }}{% endraw %} {{ shop.name | upcase }}</footer>\n"
    )
    links = [
        {
            "url": f"/{handle(dice)}",
            "title": words(dice, 1, 2),
            "links": [
                {"url": f"/{handle(dice)}", "title": words(dice, 1, 2)}
                for _ in range(dice.randint(0, 4))
            ],
        }
        for _ in range(dice.randint(3, 7))
    ]
    items = [
        {"price": dice.randint(500, 20_000), "quantity": dice.randint(1, 4)}
        for _ in range(dice.randint(0, 8))
    ]
    data = {
        "shop": {"name": words(dice, 1, 2)},
        "page": {"title": words(dice, 2, 5), "handle": handle(dice), "tags": [dice.choice(NOUNS)]},
        "campaign": dice.choice([None, words(dice, 1, 2)]),
        "preorder": dice.random() < 0.3,
        "collection": {
            "title": words(dice, 1, 3),
            "products": [product(dice) for _ in range(dice.randint(6, 14))],
        },
        "menu": {"links": links},
        "cart": {"items": items},
    }
    return {"sources": sources, "data": data}

"""Count the jumps of SQLite's virtual machine while query.sql runs. Frozen during a run.

The database is made from a seed: one for the search, another one for the confirmation, and a third
whose rows must be right too but that is not counted. An authorizer allows `indexes.sql` indexes
and statistics and nothing else, and `query.sql` reading only. SQLite calls a progress handler of
period 1 once for each jump, so the count repeats exactly with the same version of SQLite.
"""

import os
import random
import re
import sqlite3
import sys
import time

SPLIT = ["val", "holdout"].index(os.environ.get("AUTORESEARCH_SPLIT", "val"))
MOST = 20_000_000
WORDS = "amber birch cedar dune ember fern grove heath iris juniper kelp larch".split()
SCHEMA = """
CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT NOT NULL, region TEXT NOT NULL);
CREATE TABLE product (id INTEGER PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY, customer INTEGER NOT NULL, placed TEXT NOT NULL, status TEXT NOT NULL
);
CREATE TABLE line (
    id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL, product INTEGER NOT NULL,
    amount INTEGER NOT NULL, price INTEGER NOT NULL
);
"""
READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}
READING |= {sqlite3.SQLITE_RECURSIVE}
INDEXING = READING | {sqlite3.SQLITE_CREATE_INDEX, sqlite3.SQLITE_REINDEX, sqlite3.SQLITE_ANALYZE}
TABLES = {"customer", "product", "orders", "line"}
# Where SQLite itself writes down an index, and what ANALYZE finds
OWN = {"sqlite_master", "sqlite_stat1", "sqlite_stat4"}
COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
ALLOWED = re.compile(r"(CREATE\s+(UNIQUE\s+)?INDEX|ANALYZE)\b", re.IGNORECASE)


def database(seed):
    """The shop of a seed, in memory."""
    dice = random.Random(seed)
    made = sqlite3.connect(":memory:", isolation_level=None, cached_statements=0)
    made.executescript(SCHEMA)
    customers = [
        (
            n,
            f"{dice.choice(WORDS)} {dice.choice(WORDS)} {n}",
            dice.choice(["North", "East", "South", "West"]),
        )
        for n in range(1, 241)
    ]
    kinds = ["lamp", "chair", "table", "shelf", "rug", "vase"]
    products = [(n, f"{dice.choice(WORDS)} {n}", dice.choice(kinds)) for n in range(1, 81)]
    orders = [
        (
            n,
            dice.randint(1, 240),
            f"{dice.randint(2021, 2025)}-{dice.randint(1, 12):02}-{dice.randint(1, 28):02}",
            dice.choice(["paid", "paid", "sent", "sent", "cancelled"]),
        )
        for n in range(1, 2001)
    ]
    lines = [
        (n, dice.randint(1, 2000), dice.randint(1, 80), dice.randint(1, 5), dice.randint(100, 9000))
        for n in range(1, 5001)
    ]
    for table, rows in [
        ("customer", customers),
        ("product", products),
        ("orders", orders),
        ("line", lines),
    ]:
        made.execute("BEGIN")
        made.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(rows[0]))})", rows)
        made.execute("COMMIT")
    return made


def allow_indexes(action, first, second, place, inner):
    """What CREATE INDEX and ANALYZE need."""
    if action in INDEXING or action == sqlite3.SQLITE_TRANSACTION:
        return sqlite3.SQLITE_OK
    if first in OWN and action in (
        sqlite3.SQLITE_INSERT,
        sqlite3.SQLITE_UPDATE,
        sqlite3.SQLITE_DELETE,
        sqlite3.SQLITE_CREATE_TABLE,
    ):
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def allow_reading(action, first, second, place, inner):
    if action not in READING:
        return sqlite3.SQLITE_DENY
    # SQLite's own tables hold nothing that a report needs; an empty name is a count of rows
    known = action != sqlite3.SQLITE_READ or first in TABLES
    return sqlite3.SQLITE_OK if known else sqlite3.SQLITE_DENY


def statements(text):
    """The statements of a script, as SQLite cuts them."""
    cut, start = [], 0
    for at, sign in enumerate(text):
        if sign == ";" and sqlite3.complete_statement(text[start : at + 1]):
            cut.append(text[start : at + 1])
            start = at + 1
    return [*cut, text[start:]]


def build(made, script):
    """Run indexes.sql. Gives the kibibytes that it added."""
    before = made.execute("PRAGMA page_count").fetchone()[0]
    made.set_authorizer(allow_indexes)
    for statement in statements(script):
        text = COMMENT.sub(" ", statement).strip(" \n\t;")
        if text and not ALLOWED.match(text):
            sys.exit(f"indexes.sql holds {text[:40]!r}: only CREATE INDEX and ANALYZE are allowed.")
        try:
            made.execute(statement)
        except sqlite3.DatabaseError as error:
            sys.exit(f"indexes.sql: {error}.")
    made.set_authorizer(None)
    size, pages = (
        made.execute(f"PRAGMA {what}").fetchone()[0] for what in ("page_size", "page_count")
    )
    return (pages - before) * size / 1024


def counted(made, query):
    """(rows, jumps, seconds) of one SELECT."""
    jumps = 0

    def jumped():
        nonlocal jumps
        jumps += 1
        return jumps > MOST

    made.set_authorizer(allow_reading)
    made.set_progress_handler(jumped, 1)
    begin = time.perf_counter()
    try:
        rows = made.execute(query).fetchall()
    except sqlite3.DatabaseError as error:
        sys.exit(f"query.sql: {error}.")
    except sqlite3.Warning as error:
        sys.exit(f"query.sql: {error}")
    finally:
        made.set_progress_handler(None, 1)
        made.set_authorizer(None)
    return rows, jumps, time.perf_counter() - begin


def main():
    texts = {}
    for name in ("query.sql", "indexes.sql", "reference.sql"):
        with open(name, encoding="utf-8") as file:
            texts[name] = file.read()
    # Another one in each trial: nothing that is learnt from one database holds on the next
    other = f"other/{os.environ.get('AUTORESEARCH_SEED', '1')}"
    for seed in (other, ("search", "confirmation")[SPLIT]):
        # The reference runs where no candidate's index can stand in its way
        wanted = database(seed).execute(texts["reference.sql"]).fetchall()
        made = database(seed)
        kilobytes = build(made, texts["indexes.sql"])
        rows, jumps, seconds = counted(made, texts["query.sql"])
        if rows != wanted or [*map(repr, rows)] != [*map(repr, wanted)]:
            sys.exit(f"The rows differ: {len(rows)} for {len(wanted)}, or others.")
    print(f"steps: {jumps}")
    print(f"index_kb: {kilobytes:.0f}")
    print(f"counted_ms: {1000 * seconds:.2f}")


main()

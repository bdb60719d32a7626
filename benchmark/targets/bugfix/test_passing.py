"""What works already, and must go on working. Frozen during a run."""

import unittest

from spans import add_months, iso_week, merge, parse, spell, workdays


class Passing(unittest.TestCase):
    def test_parse(self):
        self.assertEqual(parse("1d 2h 3m 4s"), 93_784)

    def test_spell(self):
        self.assertEqual(spell(93_784), "1d 2h 3m 4s")
        self.assertEqual(spell(0), "0s")

    def test_add_months(self):
        self.assertEqual(add_months("2025-01-31", 1), "2025-02-28")

    def test_workdays(self):
        self.assertEqual(workdays("2025-06-02", "2025-06-07"), 5)

    def test_iso_week(self):
        self.assertEqual(iso_week("2024-12-30"), "2025-W01")
        self.assertEqual(iso_week("2021-01-03"), "2020-W53")

    def test_merge(self):
        self.assertEqual(merge([[5, 7], [1, 3], [2, 4]]), [[1, 4], [5, 7]])

#!/usr/bin/env bash
# A cell of a TSV file that begins with a quotation mark, and a cell two rows below that ends with one (24" for inches):
# IANA's text/tab-separated-values knows no quoting, so these are four rows of four fields. Readers of CSV that are told
# the delimiter take everything between the marks as one field. The record that comes out has the right number of fields,
# so none of them complains, and the product of the first row has the price of the third; two rows are gone.
#
# Tried 2026-11-29: Python 3.11.7 `csv`, also with strict=True; pandas 3.1.1; DuckDB 2.0.1, also with nothing but the
# file's name. All say: [('r1', '2 EUR'), ('r4', '3 EUR')].
#
# Ends with 0 while they do, with 1 when one of them reads otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv tools
tools/bin/pip install --quiet --disable-pip-version-check pandas==3.1.1 duckdb==2.0.1
printf 'id\ttitle\tdescription\tprice\n' > prices.tsv
printf '%s\t%s\t%s\t%s\n' \
    r1 One '"Best' '10 EUR' r2 Two fine '1 EUR' r3 Three '24"' '2 EUR' r4 Four z '3 EUR' >> prices.tsv
tools/bin/python - << 'PYTHON'
import csv
import sys

import duckdb
import pandas

swallowed = [("r1", "2 EUR"), ("r4", "3 EUR")]
found = {}
for strict in (False, True):
    with open("prices.tsv", newline="") as rows:
        read = list(csv.reader(rows, delimiter="\t", strict=strict))[1:]
    found[f"csv, strict={strict}"] = [(row[0], row[-1]) for row in read]
frame = pandas.read_csv("prices.tsv", sep="\t")
found["pandas"] = list(frame[["id", "price"]].itertuples(index=False, name=None))
found["duckdb"] = duckdb.sql("select id, price from read_csv('prices.tsv')").fetchall()
for reader, rows in found.items():
    print(f"{reader}: {rows}")
sys.exit(any(rows != swallowed for rows in found.values()))
PYTHON

#!/usr/bin/env bash
# check-openapi-seen.sh RECORD: compares the answers that the tests have got (tests/it/support/openapi.rs writes RECORD)
# with those of the OpenAPI document. What no test has seen is in tests/it/api/openapi_unseen.txt.
set -euo pipefail
record=$(realpath "${1:?the file that the tests have written}")
cd "$(dirname "$0")/.."
list=tests/it/api/openapi_unseen.txt
export LC_ALL=C # one order for sort and comm

# lines WORD: what stands behind WORD in the record.
lines() {
  sed -n "s/^$1 //p" "$record" | sort -u
}
entries() {
  sed 's/#.*//; s/ *$//; /^$/d' "$list"
}
listed() {
  entries | sed 's/^sometimes //' | sort -u
}
unseen() {
  comm -23 <(lines known) <(lines seen)
}

failed=0
# fail WHAT LINES: reports the lines, unless there are none.
fail() {
  [ -n "$2" ] || return 0
  printf '%s:\n%s\n' "$1" "$2" >&2
  failed=1
}

answers=$(lines known | wc -l)
if [ "$answers" -eq 0 ]; then
  echo "no test has got an answer that $record tells of" >&2
  exit 1
fi
echo "$answers answers in the OpenAPI document, $(unseen | wc -l) of them unseen by the tests:"
unseen
fail "answers that the document does not know" "$(lines wrong)"
fail "seen by no test, and not in $list" "$(comm -23 <(unseen) <(listed))"
# Not a failure: what depends on time is seen in one run and not in the next (`sometimes` then).
echo "in $list, and seen by a test; take them out:"
comm -12 <(entries | sed '/^sometimes /d' | sort -u) <(lines seen)
fail "in $list, and not in the document; take them out" "$(comm -23 <(listed) <(lines known))"
exit "$failed"

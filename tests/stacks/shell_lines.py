"""Reads the commands of a page: which programs are called, and with which options. It knows as much of the shell as the runbooks
use: quotes, $(…), pipes, lists, a continued line, `for` and `do`."""

import re

KEYWORDS = {"do", "then", "else", "if", "while", "until", "!"}


def fenced(page, language):
    """The blocks of a language."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", page, re.M | re.S)


def inline(page):
    """What stands in single backticks, outside of blocks; a line's end in it is a space."""
    outside = re.sub(r"^ *```.*?^ *```", "", page, flags=re.M | re.S)
    return [" ".join(text.split()) for text in re.findall(r"(?<!`)`([^`]+)`(?!`)", outside)]


def commands(text):
    """The simple commands in `text`, each as a list of words. A quoted word stays as it is; a nested $(…) is a command too,
    and leaves `$()` in its place."""
    found = []
    _simple(text.replace("\\\n", " "), found)
    return found


def _simple(text, found):
    words, word, at, quoted = [], "", 0, False

    def end_word():
        nonlocal word, quoted
        if word or quoted:
            words.append(word)
        word, quoted = "", False

    def end_command():
        end_word()
        while words and (words[0] in KEYWORDS or re.fullmatch(r"\w+=.*", words[0], re.S)):
            words.pop(0)
        if words:
            found.append(list(words))
        words.clear()

    while at < len(text):
        char = text[at]
        if char == "'":
            end = text.index("'", at + 1)
            word, at, quoted = word + text[at + 1 : end], end + 1, True
        elif char == '"':
            inner, at = _double(text, at + 1, found)
            word, quoted = word + inner, True
        elif text.startswith("$(", at) and not text.startswith("$((", at):
            inside, at = _nested(text, at + 2)
            _simple(inside, found)
            word += "$()"
        elif char in ";|\n&":
            end_command()
            at += 1
        elif char == "#" and not word and not quoted:
            at = text.find("\n", at) if "\n" in text[at:] else len(text)
        elif char in " \t":
            end_word()
            at += 1
        else:
            word, at = word + char, at + 1
    end_command()


def _double(text, at, found):
    """From behind a double quote to behind its end."""
    word = ""
    while text[at] != '"':
        if text.startswith("$(", at):
            inside, at = _nested(text, at + 2)
            _simple(inside, found)
            word += "$()"
        else:
            word, at = word + text[at], at + 1
    return word, at + 1


def _nested(text, at):
    """What is between $( and its ), and where it goes on."""
    depth, begin = 1, at
    while depth:
        if text[at] == "'":
            at = text.index("'", at + 1)
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        at += 1
    return text[begin : at - 1], at

"""The prompt policy: what it finds however it is written, what it leaves alone, tenants, and files that are refused."""

import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lienzo import Request
from lienzo.errors import ConfigError, SafetyError
from lienzo.safety import Policy, check_prompt, load_policy
from lienzo.safety.folding import LOOKALIKES, UNSEEN, fold, words
from lienzo.safety.policy import DEFAULT

DEFAULT_POLICY = load_policy(DEFAULT)
TERMS = ("bomb", "hand grenade", "mina antipersona")
RULE = {"name": "weapons", "action": "deny", "reason": "No weapons.", "terms": TERMS}
WEAPONS = Policy.model_validate({"rules": [RULE]})


def status(policy: Policy, prompt: str, tenant: str | None = None, **request: object) -> str:
    return check_prompt(Request(prompt, **request), policy, tenant).status


def of(**rule: object) -> Policy:
    return Policy.model_validate({"rules": [{**RULE, **rule}]})


# However it is written

UPRIGHT = "abcdefghijklmnopqrstuvwxyz"
STYLES = (0x1D400, 0x1D434, 0x1D468, 0x1D4D0, 0x1D504, 0x1D5A0, 0x1D670, 0xFF21)
"""Where alphabets of letters in another style begin: bold, italic, script, Fraktur, ..., full width."""
IN_STYLE = {
    c: [s for begin in STYLES if (s := chr(begin + (32 if begin == 0xFF21 else 26) + i)).isalpha()]  # some are missing
    for i, c in enumerate(UPRIGHT)
}
ALIKE: dict[str, list[str]] = {}
for strange, latin in LOOKALIKES.items():
    ALIKE.setdefault(latin, []).append(strange)
LOOSE = [chr(c) for c in (*range(0x300, 0x34F), *range(0x350, 0x370), *range(0x1DC0, 0x1DC8), *range(0x20D0, 0x20DD))]
HIDDEN = [
    *sorted(UNSEEN),
    "\u200b",
    "\u200c",
    "\u200d",
    "\u2060",
    "\ufeff",
    "\xad",
    "\u202e",
    "\u2066",
    "\U000e0041",
    "\x00",
]


@st.composite
def disguised(draw: st.DrawFn) -> str:
    """A term, every letter in another style, case or alphabet, with marks on it and things that are not seen beside it."""
    written = []
    for letter in draw(st.sampled_from(TERMS)):
        if letter == " ":
            written.append(draw(st.sampled_from([" ", "\u00a0", "  ", "-", ".", "_", "\n", "\u3000", " \u2014 "])))
            continue
        forms = [letter, letter.upper(), *IN_STYLE[letter], *ALIKE.get(letter, []), letter + "\u0301"]
        forms += [unicodedata.normalize("NFC", letter + mark) for mark in ("\u0300", "\u0308", "\u0327", "\u030c")]
        written.append(draw(st.sampled_from(forms)))
        written += draw(st.lists(st.sampled_from(LOOSE), max_size=2)) + draw(
            st.lists(st.sampled_from(HIDDEN), max_size=2)
        )
    return "".join(written)


@settings(deadline=None, max_examples=50)
@given(
    term=disguised(),
    before=st.sampled_from(["", "a ", "¡", "(", "x,"]),
    after=st.sampled_from(["", " on a table", "!", ")"]),
)
def test_a_term_is_found_however_it_is_written(term: str, before: str, after: str) -> None:
    prompt = before + term + after
    [match] = WEAPONS.matches(prompt)
    assert prompt[match.start : match.end] == match.text
    assert fold(match.text).text == fold(term).text
    assert status(WEAPONS, prompt) == "blocked"


@settings(deadline=None, max_examples=50)
@given(
    term=st.sampled_from(TERMS),
    before=st.sampled_from(["", "a", "é", "в", "9", "क", "\u0915\u093f"]),
    after=st.sampled_from(["", "er", "s", "ñ", "7", "ि"]),
)
def test_a_term_inside_a_word_is_left_alone(term: str, before: str, after: str) -> None:
    assert status(WEAPONS, f"the {before}{term}{after} there") == ("passed" if before or after else "blocked")


@pytest.mark.parametrize(
    "prompt",
    ["", "a bombastic speech", "Scunthorpe", "a class of assassins analysing cocktails in Essex", "hand and grenade", "b0mb",
     "b o m b", "grenade hand", "mina de carbón, una persona"],
)  # fmt: skip
def test_what_is_not_found(prompt: str) -> None:
    """Innocent words, and what a list of words cannot promise to see."""
    assert status(WEAPONS, prompt) == "passed"


@settings(deadline=None, max_examples=50)
@given(text=st.text(max_size=60), keep=st.booleans())
def test_folding_is_stable_and_knows_where_everything_was(text: str, keep: bool) -> None:
    folded = fold(text, keep_marks=keep)
    assert fold(folded.text, keep_marks=keep).text == folded.text
    assert len(folded.spans) == len(folded.text)
    assert all(0 <= a < b <= len(text) for a, b in folded.spans)
    assert list(folded.spans) == sorted(folded.spans)
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert fold(unicodedata.normalize(form, text), keep_marks=keep).text == folded.text
    for word, start, end in words(folded):
        assert word in fold(text[start:end], keep_marks=keep).text


@settings(deadline=None, max_examples=50)
@given(text=st.text(st.characters(exclude_characters="\u0345"), max_size=40))  # a mark in lower case, a letter in upper
def test_case_is_no_difference(text: str) -> None:
    # upper() writes some letters as two that casefold() joins otherwise, so only what comes back is compared
    if text.upper().casefold() == text.casefold():
        assert fold(text.upper()).text == fold(text).text


def test_scripts_keep_their_vowel_signs() -> None:
    assert fold("किताब").text == "किताब" and fold("がか").text != fold("かか").text


# Marks that make another letter


def test_marks_can_matter() -> None:
    plain, strict = of(terms=["ano"]), of(terms=["ano"], keep_marks=True)
    assert status(plain, "un año nuevo") == "blocked"
    for year in ("un año nuevo", "UN AN\u0303O NUEVO"):
        assert status(strict, year) == "passed"
    for word in ("ano", "ＡＮＯ", "a\u0337no", "an\u200bo"):
        assert status(strict, word) == "blocked"
    assert status(of(terms=["año"], keep_marks=True), "an\u200b\u0303o") == "blocked"


# Allow, flag, beside, negative prompts


def test_what_is_allowed_lifts_what_lies_inside_it() -> None:
    policy = Policy.model_validate(
        {
            "rules": [
                RULE,
                {"name": "pastry", "action": "allow", "reason": "A dessert.", "terms": ["chocolate bomb"]},
                {"name": "loud", "action": "flag", "reason": "Loud.", "terms": ["bomb scare"]},
            ]
        }
    )
    assert status(policy, "a chocolate bomb") == "passed"
    assert status(policy, "a chocolate bomb and a bomb") == "blocked"
    assert [m.lifted_by for m in policy.matches("a chocolate-bomb, bomb")] == ["pastry", None]
    outcome = check_prompt(Request("chocolate bomb scare"), policy)
    assert outcome.status == "flagged" and outcome.reasons == ("Loud. (rule loud, prompt)",)


def test_words_beside_others() -> None:
    policy = of(beside=["school", "schools"])
    assert status(policy, "a bomb at a ＳＣＨＯＯＬ") == "blocked"
    assert status(policy, "a bomb at sea") == status(policy, "a school") == "passed"


def test_negative_prompts() -> None:
    """Naming there what is not wanted is meant well; unless guidance paints it."""
    assert status(WEAPONS, "a sea", negative_prompt="bomb") == "passed"
    assert status(WEAPONS, "a sea", negative_prompt="bomb", guidance_scale=1) == "passed"
    assert status(WEAPONS, "a sea", negative_prompt="bomb", guidance_scale=0.99) == "blocked"
    assert status(WEAPONS, "", negative_prompt="bomb", guidance_scale=-7.5) == "blocked"
    both = of(negative=True)
    outcome = check_prompt(Request("a sea", negative_prompt="bomb"), both)
    assert outcome.status == "blocked" and outcome.reasons == ("No weapons. (rule weapons, negative prompt)",)


def test_outcomes_hold_no_word_of_the_prompt() -> None:
    outcome = check_prompt(Request("canary-7231 bomb"), WEAPONS)
    assert outcome.status == "blocked"
    assert "canary" not in outcome.model_dump_json() and "bomb" not in outcome.model_dump_json()
    assert outcome.by == (f"policy:{WEAPONS.digest()}",)


# Patterns


def test_patterns_look_at_folded_text() -> None:
    policy = of(terms=[], patterns=[r"\bbomb\w*", r"gr.nade"])
    prompt = "many ＢＯＭＢＳ"
    [match] = policy.matches(prompt)
    assert match.text == "ＢＯＭＢＳ" and prompt[match.start : match.end] == match.text
    assert status(policy, "GRÁNADE") == "blocked" and status(policy, "abomb") == "passed"


@pytest.mark.parametrize("pattern", [r"(x+x+)+y", r"([a-z]+)*\d"])
def test_patterns_that_never_end_are_stopped(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lienzo.safety.policy.SECONDS", 0.1)
    policy = of(patterns=[pattern])
    begun = time.process_time()
    with pytest.raises(SafetyError, match="weapons"):
        check_prompt(Request("x" * 5000), policy)
    assert time.process_time() - begun < 5


def test_long_texts_are_looked_at_whole_or_not_at_all() -> None:
    assert status(WEAPONS, "\ufdfa" * 9000 + " bomb") == "blocked"  # each becomes 18 letters
    assert status(WEAPONS, "e" + "\u0301" * 9990 + " bomb") == "blocked"
    with pytest.raises(SafetyError, match="10,001"):
        WEAPONS.matches("a" * 10_001)


def test_many_terms_take_no_longer() -> None:
    policy = of(terms=[f"term{i} word" for i in range(3000)])
    begun = time.process_time()
    assert status(policy, "term5 " * 1600) == "passed" and status(policy, "term2999, word") == "blocked"
    assert time.process_time() - begun < 3


# Tenants

TENANTS = """
[[rules]]
name = "weapons"
action = "deny"
reason = "No weapons."
terms = ["bomb"]

[[rules]]
name = "gore"
action = "flag"
reason = "Blood."
terms = ["blood"]

[tenants.museum]
without = ["weapons"]

[[tenants.museum.rules]]
name = "museum-brands"
action = "deny"
reason = "No brands."
terms = ["acme"]
"""


def test_tenants_have_rules_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(TENANTS)
    policy = load_policy(tmp_path / "policy.toml")
    for tenant, want in ((None, ("blocked", "flagged", "passed")), ("other", ("blocked", "flagged", "passed")),
                         ("museum", ("passed", "flagged", "blocked"))):  # fmt: skip
        assert tuple(status(policy, word, tenant) for word in ("bomb", "blood", "acme")) == want
    assert policy.digest() == policy.digest("other") != policy.digest("museum")
    assert "museum" not in check_prompt(Request("a cat"), policy, "museum").model_dump_json()


def test_the_digest_is_of_the_rules_alone(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(TENANTS)
    (tmp_path / "b.toml").write_text("# another comment\n" + TENANTS)
    (tmp_path / "c.toml").write_text(TENANTS.replace('"bomb"', '"bombs"'))
    a, b, c = (load_policy(tmp_path / f"{name}.toml").digest() for name in "abc")
    assert a == b != c


def test_threads_share_a_policy() -> None:
    prompts = ["a bomb", "a cat", "nude child", "phishing", "x" * 300] * 40
    want = [check_prompt(Request(p), DEFAULT_POLICY).status for p in prompts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda p: check_prompt(Request(p), DEFAULT_POLICY).status, prompts)) == want


# Files


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("rule = 1", "rules"),
        (TENANTS.replace("terms", "term", 1), r"rules\.0\.term: no such setting.*terms"),
        (TENANTS.replace('"deny"', '"denny"', 1), "deny"),
        (TENANTS.replace('reason = "No weapons."', ""), "reason"),
        (TENANTS.replace('terms = ["bomb"]', ""), "nothing to look for"),
        (TENANTS.replace('"bomb"', '"c++"'), "pattern"),
        (TENANTS.replace('"bomb"', '"-"'), "no word"),
        (TENANTS.replace('"bomb"', "7"), "terms"),
        (TENANTS.replace('"gore"', '"weapons"'), "two rules are called 'weapons'"),
        (TENANTS.replace('"museum-brands"', '"gore"'), "tenants.museum: two rules"),
        (TENANTS.replace('without = ["weapons"]', 'without = ["arms"]'), "no rule 'arms'"),
        (TENANTS.replace('"weapons"', '"No Weapons"'), "name"),
        (TENANTS.replace('terms = ["bomb"]', 'patterns = ["("]'), "no regular expression"),
        (TENANTS.replace('terms = ["bomb"]', 'patterns = ["a*"]'), "everywhere"),
        (TENANTS.replace('terms = ["bomb"]', 'patterns = ["cañón"]'), "keep_marks"),
        (TENANTS.replace("[[rules]]", "[[rules", 1), "no TOML"),
        ("a = " + "[" * 5000, "no TOML"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "policy.toml").write_text(text)
    with pytest.raises(ConfigError, match=match):
        load_policy(tmp_path / "policy.toml")


def test_a_policy_that_is_named_and_not_there_is_no_empty_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_policy(tmp_path / "none.toml")


# The policy that comes with lienzo


@pytest.mark.parametrize(
    ("prompt", "want"),
    [
        ("a red circle to the left of a blue square on a white background", "passed"),
        ("tres estrellas amarillas sobre fondo azul", "passed"),
        ("a mother and her child at the beach", "passed"),
        ("same-sex parents with their kids", "passed"),
        ("una clase de educación sexual para adolescentes", "passed"),
        ("a classical nude, marble", "passed"),
        ("a phishing mail, for a training", "flagged"),
        ("porn", "flagged"),
        ("child porn", "blocked"),
        ("a n\u0430ked сhild", "blocked"),
        ("una niña desnuda", "blocked"),
    ],
)
def test_the_default_policy(prompt: str, want: str) -> None:
    assert status(DEFAULT_POLICY, prompt) == want

"""`lienzo policy`: what the prompt policy says of a prompt, what it is, and how often it is wrong."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lienzo.cli.params import F, json_option
from lienzo.cli.text import note, plain, print_json, table

if TYPE_CHECKING:
    from lienzo.safety import Policy


@click.group(short_help="Look at the prompt policy.")
def policy() -> None:
    """Look at the prompt policy: which words may not be asked for, which are flagged, and why."""


def policy_options(command: F) -> F:
    for option in (
        click.option("--tenant", metavar="NAME", help="Whose rules. [default: LIENZO_TENANT's]"),
        click.option(
            "--policy", "file", metavar="FILE", type=click.Path(path_type=Path),
            help="A policy, TOML. [default: what LIENZO_POLICY names, else lienzo's own]",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


@policy.command(short_help="Tell what the policy says of a prompt, and why.")
@click.argument("prompt")
@click.option("--negative", default="", metavar="TEXT", help="A negative prompt to look at too.")
@policy_options
@json_option
def check(prompt: str, negative: str, file: Path | None, tenant: str | None, as_json: bool) -> None:
    """Tell what the policy says of PROMPT: passed, flagged or blocked, which rule found which words, and what lifts it.

    The exit code is 0 whatever it says.
    """
    from dataclasses import asdict

    loaded, tenant = _loaded(file, tenant)
    matches = loaded.matches(prompt, negative, tenant=tenant)
    outcome = loaded.outcome(matches, tenant)
    if as_json:
        print_json({**outcome.model_dump(mode="json"), "matches": [asdict(match) for match in matches]})
        return
    click.echo(plain(str(outcome.status)))
    for match in matches:
        lifted = f"; lifted by {match.lifted_by}" if match.lifted_by else ""
        click.echo(plain(f"  {match.action} {match.rule}: {match.text!r} in the {match.where}{lifted}. {match.reason}"))


@policy.command(short_help="Show the rules that apply.")
@policy_options
@json_option
def show(file: Path | None, tenant: str | None, as_json: bool) -> None:
    """Show the rules that apply, their digest, and which tenants have rules of their own."""
    loaded, tenant = _loaded(file, tenant)
    rules = loaded.rules_for(tenant)
    if as_json:
        print_json(
            {
                "digest": loaded.digest(tenant),
                "rules": [rule.model_dump(mode="json") for rule in rules],
                "tenants": sorted(loaded.tenants),
            }
        )
        return
    table(
        [
            ("digest", loaded.digest(tenant)),
            ("rules", str(len(rules))),
            ("tenants", ", ".join(sorted(loaded.tenants)) or "none"),
        ]
    )
    for rule in rules:
        click.echo(plain(f"\n{rule.action} {rule.name}: {rule.reason}"))
        for title, items in (("terms", rule.terms), ("patterns", rule.patterns), ("beside", rule.beside)):
            if items:
                click.echo(plain(f"  {title}: {', '.join(items)}"))
        for title, on in (("with marks", rule.keep_marks), ("in negative prompts too", rule.negative)):
            if on:
                click.echo(f"  {title}")


@policy.command(short_help="Measure how often the policy is wrong.")
@click.argument("labelled", metavar="FILE", type=click.Path(path_type=Path))
@policy_options
@json_option
def measure(labelled: Path, file: Path | None, tenant: str | None, as_json: bool) -> None:
    """Measure how often the policy is wrong on the prompts in FILE, a CSV with the columns `prompt` and `label` ("safe" or
    "unsafe"): error rates with their intervals of 95 in 100.
    """
    from lienzo.safety.measure import measure_prompts, to_dict

    loaded, tenant = _loaded(file, tenant)
    rates = measure_prompts(labelled, loaded, tenant)
    if as_json:
        what = f"prompt policy {loaded.digest(tenant)}"
        print_json(to_dict(what, f"lienzo policy measure {labelled.name}", rates))
        return
    table([(r.name, f"{r.value:.4g} [{r.low:.4g}, {r.high:.4g}] of {r.n}", r.about) for r in rates])


def _loaded(file: Path | None, tenant: str | None) -> "tuple[Policy, str]":
    """The policy and the tenant that were named, or those that are set."""
    from lienzo.provenance.settings import Settings
    from lienzo.safety import load_policy

    settings = Settings.read(policy=None if file is None else str(file), tenant=tenant)
    loaded = load_policy(settings.policy)
    if tenant is not None and tenant not in loaded.tenants:
        note(f"The policy has nothing for the tenant {tenant!r}; the rules for everybody apply.")
    return loaded, settings.tenant

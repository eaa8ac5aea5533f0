"""The only door by which a picture leaves: Python, the command line and whatever serves requests go through it.

What happens to every picture is decided by `lienzo.provenance.settings`: the prompt is admitted, the picture made, checked,
labelled, marked and logged, in this order. A picture to which any of that could not be done does not leave.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self, overload

import torch

from lienzo import safety
from lienzo.errors import RequestError
from lienzo.models.bundle import Bundle
from lienzo.pipeline.generate import Result, Run, Step, finished, generate
from lienzo.pipeline.request import Request
from lienzo.provenance.energy import Meter, Spent
from lienzo.provenance.keys import Keystore, home
from lienzo.provenance.marking import Notary
from lienzo.provenance.receipt import Checked, Safety
from lienzo.provenance.settings import Level, Settings
from lienzo.provenance.watermark.latent import latents_for
from lienzo.safety import simulation
from lienzo.weights import adapters, load
from lienzo.weights.adapters import Adapter, Embedding

Lora = str | Path | Adapter
Embedded = str | Path | Embedding | tuple[str | Path, str]
Several = Sequence[Request] | list[str] | tuple[str, ...]


class House:
    """The rules of a house: what every picture made in it goes through. Threads may share it.

    Args:
        keys: None: those in lienzo's home.
    """

    def __init__(self, settings: Settings, *, keys: Keystore | None = None) -> None:
        self.settings = settings
        self.notary = Notary(settings, keys)

    @cached_property
    def policy(self) -> safety.Policy:
        """What prompts are admitted by."""
        return safety.load_policy(self.settings.policy)

    @cached_property
    def checks(self) -> tuple[safety.PictureCheck, ...]:
        """What pictures are checked by: nothing where no weights were named."""
        return () if self.settings.safety is None else (safety.load(self.settings.safety),)

    def make(
        self,
        bundle: Bundle,
        requests: Request | Sequence[Request],
        *,
        generators: Sequence[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
    ) -> Run:
        """Make finished pictures: a generator of `Step` that returns the results, see `generate`.

        Raises:
            BlockedError: the policy does not admit a prompt, or a check blocks a picture. Nothing of the batch is returned.
        """
        batch = [requests] if isinstance(requests, Request) else list(requests)
        admitted = self.admit(batch)
        if self.settings.mark == "latent":
            if latents is not None:
                raise RequestError("latents: got some with mark=latent, which makes them. Leave one of both out.")
            latents = latents_for(bundle, batch, self.notary.keys.secret("watermark"))
        meter = Meter()
        results = yield from generate(bundle, batch, generators=generators, latents=latents)
        if self.settings.mark == "latent":  # they come of the request and the key
            results = tuple(
                replace(one, given=tuple(what for what in one.given if what != "latents")) for one in results
            )
        spent = meter.spent().share(of=max(len(results), 1))
        return tuple(self._finished(*one, spent) for one in zip(results, admitted, strict=True))

    def admit(self, requests: Sequence[Request]) -> list[safety.Outcome]:
        """What the policy says of each prompt.

        Raises:
            BlockedError: it does not admit one.
        """
        tenant = self.settings.tenant
        return [safety.require(safety.check_prompt(request, self.policy, tenant)) for request in requests]

    def _finished(self, result: Result, admitted: safety.Outcome, spent: Spent) -> Result:
        seen = safety.require(safety.check_picture(result.image, self.checks))
        found = Safety(prompt=_checked(admitted), picture=_checked(seen))
        flags = [str(outcome) for outcome in (admitted, seen) if outcome.status == "flagged"]
        told = replace(result, warnings=(*result.warnings, *flags))
        if self.settings.simulation is None:
            return self.notary.mark(told, spent, safety=found)
        image, label = simulation.label(result.image, self.settings.simulation)
        return self.notary.mark(told, spent, safety=found, labelled=(image, label.text))


def _checked(outcome: safety.Outcome) -> Checked:
    return Checked.model_validate(outcome.model_dump())


@lru_cache(maxsize=16)
def _house(settings: Settings, home: Path) -> House:
    """One a set of rules, so that keys and databases are opened once."""
    return House(settings, keys=Keystore(home / "keys"))


def house(settings: Settings | None = None) -> House:
    """The house of these settings; None: of those in force. Its keys and databases are opened once a process."""
    return _house(Settings.read() if settings is None else settings, home())


def make(
    bundle: Bundle,
    requests: Request | Sequence[Request],
    *,
    settings: Settings | None = None,
    generators: Sequence[torch.Generator] | None = None,
    latents: torch.Tensor | None = None,
) -> Run:
    """Make finished pictures under the rules of a house, see `House.make`; None: those in force."""
    return house(settings).make(bundle, requests, generators=generators, latents=latents)


class Pipeline:
    """A loaded model that makes pictures. Threads may share it: no call leaves anything behind.

    >>> from lienzo import Pipeline, Request
    >>> pipe = Pipeline.load()                                       # the embedded model; or a folder, file, hub id
    >>> result = pipe(Request("a red circle on a white background", seed=7))
    >>> result.image.size                                            # a watermark is in it, and result.signed is its receipt
    (128, 128)
    """

    def __init__(self, bundle: Bundle, settings: Settings | None = None) -> None:
        self.bundle = bundle
        self.settings = Settings.read() if settings is None else settings

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        *,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device = "cpu",
        mark: Level | None = None,
        private: bool | None = None,
        simulation: str | None = None,
        **options: Any,
    ) -> Self:
        """Load a model; see `lienzo.weights.load` for what can be named and which options there are.

        Args:
            mark: off, credentials, full or latent; None: as set for this machine, else full. See `Settings`.
            private: whether pictures carry no prompt, only a commitment to it; None: as set, else not.
            simulation: a language, in whose word a visible label is burnt into every picture; None: as set, else none.
        """
        settings = Settings.read(mark=mark, private=private, simulation=simulation)
        return cls(load(model, dtype=dtype, device=device, **options), settings)

    def with_adapters(
        self, *loras: Lora | tuple[Lora, float] | tuple[Lora, float, float], embeddings: Sequence[Embedded] = ()
    ) -> Self:
        """A pipeline with LoRA and textual-inversion embeddings, beside this one, which stays as it is.

        Args:
            loras: files, hub ids or loaded adapters, each alone, with its weight, or with the U-Net's and the text encoder's.
            embeddings: files, hub ids or loaded embeddings, each alone or with the token that shall stand for it.

        Raises:
            WeightsError: a file that is damaged, of another kind, or made for another model.
            InputError: this pipeline has adapters already, or knows the token.
        """
        chosen = [_weighted(self.bundle, *(one if isinstance(one, tuple) else (one,))) for one in loras]
        words = [_embedding(*(one if isinstance(one, tuple) else (one,))) for one in embeddings]
        return type(self)(adapters.with_adapters(self.bundle, chosen, words), self.settings)

    def stream(self, requests: Request | Sequence[Request]) -> Run:
        """Make pictures step by step: iterate, look at each `Step`, stop whenever; see `make`."""
        return make(self.bundle, requests, settings=self.settings)

    @overload
    def __call__(self, request: Request | str, *, on_step: Callable[[Step], object] | None = None) -> Result: ...
    @overload
    def __call__(self, request: Several, *, on_step: Callable[[Step], object] | None = None) -> tuple[Result, ...]: ...
    def __call__(
        self, request: Request | str | Several, *, on_step: Callable[[Step], object] | None = None
    ) -> Result | tuple[Result, ...]:
        """Make one picture, or several.

        Args:
            request: a request, a bare prompt, or a sequence of requests.
            on_step: called after every evaluation of the network.

        Warns:
            UserWarning: what `Result.warnings` says.
        """
        alone = isinstance(request, (str, Request))
        several = [request] if isinstance(request, (str, Request)) else request
        run = self.stream([Request(r) if isinstance(r, str) else r for r in several])
        results = finished(run, on_step)
        for warning in dict.fromkeys(w for result in results for w in result.warnings):
            warnings.warn(warning, stacklevel=2)
        return results[0] if alone else results


def _weighted(bundle: Bundle, lora: Lora, unet: float = 1.0, text_encoder: float | None = None) -> adapters.Weighted:
    loaded = lora if isinstance(lora, Adapter) else adapters.load_adapter(lora, bundle)
    return loaded, unet, unet if text_encoder is None else text_encoder


def _embedding(embedding: str | Path | Embedding, token: str | None = None) -> Embedding:
    return embedding if isinstance(embedding, Embedding) else adapters.load_embedding(embedding, token=token)

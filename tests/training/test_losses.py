"""The step functions: pure, and falling on a problem that can be learned."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lienzo.diffusion.schedule import Schedule, ScheduleConfig
from lienzo.errors import ConfigError
from lienzo.models.clip import TextConfig, TextEncoder
from lienzo.models.unet import UNet, UNetConfig
from lienzo.models.vae import VAE, VAEConfig
from lienzo.training.blocks import blocks, recomputed
from lienzo.training.config import LossConfig, OptimizerConfig, RateConfig, RunConfig, TrainConfig
from lienzo.training.loop import train
from lienzo.training.losses import CaptionedLatents, Conditioned, diffusion_loss, vae_loss, validation_loss
from lienzo.training.share import Share

SCHEDULE = ScheduleConfig(
    beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type="v_prediction"
)
VAE_TINY = VAEConfig(
    block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=2, mid_block_add_attention=False, sample_size=8
)
UNET = UNetConfig(
    block_out_channels=(16, 16),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=16,
    attention_head_dim=1,
    norm_num_groups=2,
)
TEXT = TextConfig(
    vocab_size=10,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=1,
    bos_token_id=8,
    eos_token_id=9,
    pad_token_id=9,
)
EMPTY = torch.tensor([8, 9, 9, 9, 9, 9])


def share(seed: int, step: int, size: int = 16) -> Share:
    return Share(seed=seed, step=step, size=size)


def conditioned() -> Conditioned:
    torch.manual_seed(0)
    return Conditioned(TextEncoder(TEXT), UNet(UNET))


def two_flat_pictures(share: Share) -> CaptionedLatents:
    which = share.integers("which", 2)
    latents = (which * 2.0 - 1)[:, None, None, None].expand(-1, 4, 4, 4)
    ids = torch.stack([torch.tensor([8, 3 + w, 9, 9]) for w in which.tolist()])
    return CaptionedLatents(latents=latents, ids=ids, keys=tuple(f"picture {w}" for w in which.tolist()))


def config(rate: float, batch_size: int = 16, **run: object) -> TrainConfig:
    return TrainConfig(
        optimizer=OptimizerConfig(learning_rate=rate),
        schedule=RateConfig(shape="cosine", warmup=5),
        run=RunConfig(**{"steps": 60, "batch_size": batch_size, "ema": 0.999, "save_every": 1000, **run}),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("run", [{}, {"precision": "bf16", "checkpointing": True}], ids=["fp32", "bf16"])
def test_diffusion_loss_falls_and_the_caption_matters(tmp_path: Path, run: dict[str, object]) -> None:
    model = conditioned()
    loss = diffusion_loss(Schedule(SCHEDULE), empty=EMPTY, dropout=0.1)
    validate = validation_loss(Schedule(SCHEDULE), lambda: [two_flat_pictures(share(7, i)) for i in range(2)])
    with torch.no_grad():
        before = validate(model)
        assert validate(model) == before  # always the same question
    assert set(before) == {"loss", *(f"loss at {t}" for t in (100, 300, 500, 700, 900))}
    train(model, loss, two_flat_pictures, config(5e-3, **run), tmp_path)
    with torch.no_grad():
        assert validate(model)["loss"] < 0.5 * before["loss"]
    x, t = torch.zeros(2, 4, 4, 4), torch.full((2,), 999.0)
    with torch.no_grad():
        # v = -x0 where there is only noise
        one, other = model.unet(x, t, model.text_encoder(torch.tensor([[8, 3, 9, 9], [8, 4, 9, 9]])))
    assert one.mean() > other.mean() + 0.5


def test_diffusion_loss_is_a_function_of_its_arguments() -> None:
    model, batch = conditioned(), two_flat_pictures(share(0, 0))
    loss = diffusion_loss(Schedule(SCHEDULE))
    first, second, other = (loss(model, batch, share(1, step)) for step in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)


@pytest.mark.parametrize(
    "settings",
    [
        LossConfig(kind="huber"),
        LossConfig(weighting="min_snr"),
        LossConfig(weighting="debiased"),
        LossConfig(noise_offset=0.1),
        LossConfig(masked=True),
    ],
    ids=lambda settings: str(settings.model_dump(exclude_defaults=True)),
)
def test_every_setting_of_the_loss_reaches_it(settings: LossConfig) -> None:
    model = conditioned()
    batch = replace(
        two_flat_pictures(share(0, 0)), mask=(torch.arange(16.0) % 3 == 0).reshape(1, 1, 4, 4).expand(16, -1, -1, -1)
    )
    plain, other = (diffusion_loss(Schedule(SCHEDULE), config=c)(model, batch, share(1, 1)) for c in (None, settings))
    assert torch.isfinite(other) and plain != other


def test_with_full_dropout_the_caption_does_not_matter() -> None:
    model, batch = conditioned(), two_flat_pictures(share(0, 0))
    loss = diffusion_loss(Schedule(SCHEDULE), empty=EMPTY, dropout=1.0)
    assert batch.ids is not None
    other = replace(batch, ids=torch.full_like(batch.ids, 5))
    assert torch.equal(loss(model, batch, share(1, 1)), loss(model, other, share(1, 1)))


def test_encoded_captions_give_the_same_loss() -> None:
    model, batch = conditioned(), two_flat_pictures(share(0, 0))
    encoded = replace(batch, ids=None, context=model.text_encoder(batch.ids))
    kinds = {EMPTY: batch, model.text_encoder(EMPTY[None])[0]: encoded}
    one, other = (
        diffusion_loss(Schedule(SCHEDULE), empty=empty, dropout=0.5)(model, b, share(1, 1))
        for empty, b in kinds.items()
    )
    torch.testing.assert_close(one, other)


def test_a_sample_of_no_weight_does_not_count() -> None:
    model, batch = conditioned(), two_flat_pictures(share(0, 0))
    weight = torch.ones(16)
    weight[3] = 0
    loss = diffusion_loss(Schedule(SCHEDULE))
    other = batch.latents.clone()
    other[3] = 50.0
    one = loss(model, replace(batch, weight=weight), share(1, 1))
    assert torch.equal(one, loss(model, replace(batch, weight=weight, latents=other), share(1, 1)))


def test_vae_loss_falls(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = VAE(VAE_TINY)

    def flat(share: Share) -> Tensor:
        colours = torch.stack([share.uniform(c) for c in "rgb"], dim=1).float()[:, :, None, None]
        return (colours * 2 - 1).expand(-1, -1, 8, 8).contiguous()

    def value() -> float:
        return vae_loss(vae, flat(share(7, 0, 8)), share(8, 0, 8)).item()

    before = value()
    train(vae, vae_loss, flat, config(1e-2, batch_size=8), tmp_path)
    assert value() < 0.6 * before


def test_vae_loss_punishes_soft_edges() -> None:
    class Given(VAE):
        def decode(self, z: Tensor) -> Tensor:
            return self.answer  # type: ignore[return-value]

    vae = Given(VAE_TINY)
    sharp = torch.full((1, 3, 8, 8), -0.5)
    sharp[..., 4:] = 0.5
    soft = sharp.clone()
    soft[..., 3], soft[..., 4] = -0.25, 0.25  # the same absolute difference as the flat error below
    flat = sharp.clone()
    flat[..., :2] += 0.25
    values = []
    for answer in (soft, flat):
        vae.answer = answer
        values.append(vae_loss(vae, sharp, share(0, 0, 1)).item())
    assert values[0] > values[1]


def test_recomputed_blocks_give_the_same_gradients_and_go_back() -> None:
    net: nn.Module = conditioned()
    x, ids = torch.randn(2, 4, 8, 8), torch.tensor([[8, 3, 9, 9], [8, 4, 9, 9]])

    def gradients() -> list[Tensor]:
        net.zero_grad()
        net.unet(x, torch.tensor([3, 700]), net.text_encoder(ids)).square().mean().backward()
        return [p.grad.clone() for p in net.parameters() if p.grad is not None]

    plain = gradients()
    with recomputed(net):
        assert blocks(net) and all("forward" in vars(block) for block in blocks(net))
        again = gradients()
    assert len(plain) == len(list(net.parameters()))
    assert all(map(torch.equal, plain, again))
    assert not any("forward" in vars(block) for block in blocks(net))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (LossConfig(prediction="sample"), r"loss.prediction: got 'sample'"),
        (LossConfig(zero_terminal_snr=True, prediction=SCHEDULE.prediction_type), "loss.zero_terminal_snr"),
    ],
)
def test_what_the_schedule_has_not_is_refused(settings: LossConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        diffusion_loss(Schedule(SCHEDULE), config=settings)

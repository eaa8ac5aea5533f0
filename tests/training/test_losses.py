"""The step functions: pure, and falling on a problem that can be learned."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Generator, Tensor

from lienzo.diffusion.schedule import Schedule, ScheduleConfig
from lienzo.models.clip import TextConfig, TextEncoder
from lienzo.models.unet import UNet, UNetConfig
from lienzo.models.vae import VAE, VAEConfig
from lienzo.training.loop import TrainConfig, step_generator, train
from lienzo.training.losses import CaptionedLatents, Conditioned, diffusion_loss, vae_loss

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


def conditioned() -> Conditioned:
    torch.manual_seed(0)
    return Conditioned(TextEncoder(TEXT), UNet(UNET))


def two_flat_pictures(generator: Generator) -> CaptionedLatents:
    which = torch.randint(2, (16,), generator=generator)
    latents = (which * 2.0 - 1)[:, None, None, None].expand(-1, 4, 4, 4)
    return CaptionedLatents(latents=latents, ids=torch.stack([torch.tensor([8, 3 + w, 9, 9]) for w in which.tolist()]))


def test_diffusion_loss_falls_and_the_caption_matters(tmp_path: Path) -> None:
    model = conditioned()
    loss = diffusion_loss(Schedule(SCHEDULE), empty=EMPTY)
    fixed = [loss(model, two_flat_pictures(step_generator(7, i)), step_generator(8, i)).item() for i in range(4)]
    config = TrainConfig(steps=60, learning_rate=5e-3, warmup=5, save_every=1000)
    train(model, loss, two_flat_pictures, config, tmp_path)
    after = [loss(model, two_flat_pictures(step_generator(7, i)), step_generator(8, i)).item() for i in range(4)]
    assert sum(after) < 0.5 * sum(fixed)
    x, t = torch.zeros(2, 4, 4, 4), torch.full((2,), 999.0)
    with torch.no_grad():
        # v = -x0 where there is only noise
        one, other = model.unet(x, t, model.text_encoder(torch.tensor([[8, 3, 9, 9], [8, 4, 9, 9]])))
    assert one.mean() > other.mean() + 0.5


def test_diffusion_loss_is_a_function_of_its_arguments() -> None:
    model, batch = conditioned(), two_flat_pictures(step_generator(0, 0))
    loss = diffusion_loss(Schedule(SCHEDULE), empty=EMPTY)
    first, second, other = (loss(model, batch, step_generator(1, step)) for step in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_with_full_dropout_the_caption_does_not_matter() -> None:
    model, batch = conditioned(), two_flat_pictures(step_generator(0, 0))
    loss = diffusion_loss(Schedule(SCHEDULE), empty=EMPTY, dropout=1.0)
    other = replace(batch, ids=torch.full_like(batch.ids, 5))
    assert torch.equal(loss(model, batch, step_generator(1, 1)), loss(model, other, step_generator(1, 1)))


def test_vae_loss_falls(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = VAE(VAE_TINY)

    def flat(generator: Generator) -> Tensor:
        return (torch.rand(8, 3, 1, 1, generator=generator) * 2 - 1).expand(-1, -1, 8, 8).contiguous()

    def value() -> float:
        return vae_loss(vae, flat(step_generator(7, 0)), step_generator(8, 0)).item()

    before = value()
    train(vae, vae_loss, flat, TrainConfig(steps=60, learning_rate=1e-2, warmup=5, save_every=1000), tmp_path)
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
        values.append(vae_loss(vae, sharp, step_generator(0, 0)).item())
    assert values[0] > values[1]

"""Networks as they start, and what is made of them in the end."""

import torch
from torch import nn

from lienzo import Pipeline
from lienzo.models.vae import VAE, VAEConfig
from lienzo.training.recipes.autoencoder import standardised
from lienzo.training.recipes.denoiser import Learned
from lienzo.training.recipes.networks import new_unet

SHAPE = {
    "block_out_channels": [32, 64], "layers_per_block": 1, "attention_head_dim": 2, "norm_num_groups": 8,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip


def test_a_new_unet_says_nothing() -> None:
    bundle = Pipeline.load().bundle
    unet = new_unet(SHAPE, bundle.text_encoder, bundle.vae, 8, seed=0)
    context = torch.randn(2, 7, bundle.text_encoder.config.hidden_size)
    assert unet(torch.randn(2, 4, 8, 8), torch.tensor([1, 500]), context).abs().max() == 0
    assert unet.config.sample_size == 8


def test_learned_rows_stand_behind_the_table() -> None:
    table, rows = torch.randn(10, 4), torch.randn(3, 4)
    learned = Learned(table, rows)
    ids = torch.tensor([[0, 9, 10], [12, 11, 12]])
    found = learned(ids)
    assert found.equal(torch.cat([table, rows])[ids])
    found.sum().backward()
    assert learned.rows.grad is not None
    assert learned.rows.grad[:, 0].tolist() == [1, 1, 2]
    assert [name for name, _ in learned.named_parameters()] == ["rows"] and not learned.state_dict().keys() - {"rows"}


def test_standardised_latents_are_even_and_mean_the_same_pictures() -> None:
    torch.manual_seed(0)
    vae = VAE(VAEConfig.from_dict({"block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 2}))
    assert vae.quant_conv is not None
    with torch.no_grad():
        nn.init.normal_(vae.quant_conv.weight, std=3)
        pictures = [torch.rand(3, 16, side) * 2 - 1 for side in (16, 24, 32)]
        before = [vae.encode(picture[None]) for picture in pictures]
        decoded = [vae.decode(one.sample(torch.ones_like(one.mean))) for one in before]
        made = standardised(vae, iter(pictures))
        after = [made.encode(picture[None]) for picture in pictures]
        for one, picture in zip(after, decoded, strict=True):
            assert torch.allclose(made.decode(one.sample(torch.ones_like(one.mean))), picture, atol=1e-4)
        means = torch.cat([one.mean.flatten(2) for one in after], dim=2)[0]
        assert torch.allclose(means.mean(1), torch.zeros(4), atol=1e-4)
        assert torch.allclose(means.std(1), torch.ones(4), atol=1e-4)
        noise = torch.cat([one.logvar.exp().flatten(2) for one in after], dim=2).mean()
        assert abs(made.config.scaling_factor**2 * (1 + noise) - 1) < 1e-4

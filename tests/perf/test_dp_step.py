"""The benchmark times what it says: its dense twin is the flagship, and its output is flat JSON."""

import json

import torch

from models.layout import OneHotLayout
from models.vae import VaeOptions, VariationalAutoencoder
from perf.dp_step import BATCH, CARDINALITIES, Bench, DenseTwin, main
from privacy.dp_sgd import clipped_gradient_sum, parameter_count


def test_the_dense_twin_is_the_flagship():
    layout = OneHotLayout(cardinalities=(3, 2, 4))
    model, twin = VariationalAutoencoder(layout, VaeOptions()), DenseTwin(layout, latent=VaeOptions().latent)
    with torch.no_grad():
        for place, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(place)))
        twin.encoder.weight.copy_(model.encoder[1].weight)
        twin.shapes.load_state_dict(model.decoder.shapes.state_dict())
        twin.heads.load_state_dict(model.decoder.heads.state_dict())
    assert parameter_count(model) == parameter_count(twin)
    made = torch.Generator().manual_seed(0)
    codes = torch.stack([torch.randint(size, (50,), generator=made) for size in layout.cardinalities], dim=1)
    key = torch.Generator().manual_seed(1)
    torch.testing.assert_close(twin(codes, key.manual_seed(1)), model.unit_loss(codes, generator=key.manual_seed(1)))
    norms = [
        clipped_gradient_sum(
            part, lambda loss=loss: loss(codes, generator=key.manual_seed(1)), units=None, clip_norm=0.5
        ).norm()
        for part, loss in ((model, model.unit_loss), (twin, twin.forward))
    ]
    torch.testing.assert_close(norms[0], norms[1], rtol=1e-5, atol=1e-6)


def test_only_the_model_with_splines_has_fewer_weights_than_codes_need():
    whole, smooth = (
        Bench(noise_multiplier=1.0, splines=splines).mechanism().grid.dimension for splines in (False, True)
    )
    assert whole == parameter_count(DenseTwin(OneHotLayout(cardinalities=CARDINALITIES), latent=VaeOptions().latent))
    assert smooth < whole / 10


def test_it_prints_flat_json(capsys):
    threads = torch.get_num_threads()
    try:
        status = main(["--json", "--repeats", "1", "--slow-repeats", "0", "--threads", "1"])
    finally:
        torch.set_num_threads(threads)
    assert status == 0
    result = json.loads(capsys.readouterr().out)
    times = {"plain_ms", "dense_ms", "dp_ms", "noise_ms", "splines_plain_ms", "splines_dp_ms"}
    assert times | {"ratio", "splines_ratio", "batch", "columns", "parameters"} <= set(result)
    assert result["batch"] == BATCH == 2048
    assert result["ratio"] == result["dp_ms"] / min(result["plain_ms"], result["dense_ms"])
    assert result["splines_ratio"] == result["splines_dp_ms"] / result["splines_plain_ms"]
    assert all(isinstance(value, int | float) for value in result.values())

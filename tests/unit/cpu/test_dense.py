"""Linear layers, norms, activation and rotary embedding against float64."""

from __future__ import annotations

import pytest
import torch

DTYPES = [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1e-2}
ops = torch.ops.sgl_kernel


def close(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(actual.double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 7, 8, 15, 64, 65])
@pytest.mark.parametrize(("features", "depth"), [(96, 64), (208, 96), (17, 64), (32, 20)])
def test_linear_equals_reference(dtype: torch.dtype, rows: int, features: int, depth: int) -> None:
    """All row tiles, a last block that is not full, the hand-over to oneDNN, shapes that do not fit tiles."""
    x, w = torch.randn(rows, depth).to(dtype), (torch.randn(features, depth) / depth**0.5).to(dtype)
    bias = torch.randn(features)
    close(ops.weight_packed_linear(x, w, None, True), x.double() @ w.double().T, dtype)
    biased = ops.weight_packed_linear(x, w, bias, True)
    torch.testing.assert_close(
        biased.double(), x.double() @ w.double().T + bias.double(), atol=3 * TOLERANCE[dtype], rtol=0.01
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_of_a_linear_layer_does_not_depend_on_its_neighbours(dtype: torch.dtype) -> None:
    """Why a batch or a draft changes no output: bit for bit the same at every number of rows."""
    x, w = torch.randn(64, 96).to(dtype), torch.randn(160, 96).to(dtype)
    every = ops.weight_packed_linear(x, w, None, True)
    for rows in range(1, 20):
        assert torch.equal(ops.weight_packed_linear(x[:rows], w, None, True), every[:rows])


def test_weights_are_not_copied() -> None:
    """Tied embeddings would otherwise take twice the memory."""
    weight = torch.randn(64, 32)
    assert ops.convert_weight_packed(weight).data_ptr() == weight.data_ptr()


def test_unsupported_weights_are_refused() -> None:
    with pytest.raises(RuntimeError, match="mixture of experts"):
        ops.convert_weight_packed(torch.randn(2, 32, 32))
    with pytest.raises(RuntimeError, match="Half"):
        ops.convert_weight_packed(torch.randn(32, 32).half())
    with pytest.raises(RuntimeError, match="input is Float, weight is BFloat16"):
        ops.weight_packed_linear(torch.randn(1, 32), torch.randn(32, 32).bfloat16(), None, True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [16, 576, 35])
def test_rmsnorm_equals_reference(dtype: torch.dtype, width: int) -> None:
    x, weight = torch.randn(5, width).to(dtype), torch.randn(width).to(dtype)
    expected = x.double() * (x.double().pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt() * weight.double()
    close(ops.rmsnorm_cpu(x, weight, 1e-5), expected, dtype)
    close(ops.rmsnorm_cpu(x.view(5, 1, width), weight, 1e-5).view(5, width), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [64, 35])
def test_add_rmsnorm_equals_reference(dtype: torch.dtype, width: int) -> None:
    """Both arguments are written: the residual becomes the sum, the input its norm."""
    x, residual = torch.randn(4, width).to(dtype), torch.randn(4, width).to(dtype)
    weight = torch.randn(width).to(dtype)
    total = x.double() + residual.double()
    expected = total * (total.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt() * weight.double()
    ops.fused_add_rmsnorm_cpu(x, residual, weight, 1e-5)
    close(x, expected, dtype)
    close(residual, total, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [64, 21])
def test_silu_and_mul_equals_reference(dtype: torch.dtype, width: int) -> None:
    """Large values too: exp must neither overflow nor lose the sign."""
    x = (torch.randn(6, 2 * width) * 20).to(dtype)
    x[0, :4] = torch.tensor([-200.0, 200.0, -90.0, 90.0])
    gate, up = x.double().chunk(2, dim=-1)
    torch.testing.assert_close(
        ops.silu_and_mul_cpu(x).double(), gate * gate.sigmoid() * up, atol=1e-4, rtol=TOLERANCE[dtype]
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_neox", [True, False])
@pytest.mark.parametrize(("head", "rotary"), [(64, 64), (64, 32), (24, 12)])
def test_rotary_equals_reference(dtype: torch.dtype, is_neox: bool, head: int, rotary: int) -> None:
    """As complex numbers: pair (a, b) is turned by its angle; what lies behind the rotary part stays."""
    angles = torch.rand(50, rotary // 2, dtype=torch.float64) * 6
    cache = torch.cat((angles.cos(), angles.sin()), dim=-1).to(dtype)
    positions = torch.tensor([3, 49, 3, 0])
    fused = torch.randn(4, 5 * head).to(dtype)
    query, key = fused[:, : 3 * head], fused[:, 3 * head :]
    before = fused.clone()
    rotated = ops.rotary_embedding_cpu(positions, query, key, head, cache, is_neox)
    assert torch.equal(fused, before)
    cosine, sine = cache.double()[positions].unsqueeze(1).chunk(2, dim=-1)
    turn = torch.complex(cosine, sine)
    for x, out in zip((query, key), rotated, strict=True):
        assert out.shape == x.shape
        heads = x.double().reshape(4, -1, head)
        part = heads[..., :rotary]
        a, b = part.chunk(2, dim=-1) if is_neox else (part[..., ::2], part[..., 1::2])
        turned = torch.complex(a.contiguous(), b.contiguous()) * turn
        pairs = (turned.real, turned.imag)
        merged = torch.cat(pairs, -1) if is_neox else torch.stack(pairs, -1).flatten(-2)
        close(out, torch.cat((merged, heads[..., rotary:]), -1).flatten(1), dtype)


def test_dense_operators_refuse_half() -> None:
    x = torch.randn(2, 32).half()
    with pytest.raises(RuntimeError, match="rmsnorm_cpu: Half"):
        ops.rmsnorm_cpu(x, torch.randn(32).half(), 1e-5)
    with pytest.raises(RuntimeError, match="silu_and_mul_cpu: Half"):
        ops.silu_and_mul_cpu(x)

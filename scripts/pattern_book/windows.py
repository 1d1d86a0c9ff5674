"""Convolutions and pools."""

import numpy as np

from .builder import Model, pattern


def normalization(m: Model, t: str, channels: int) -> str:
    scale, shift, mean = m.weights(channels), m.weights(channels), m.weights(channels)
    return m.BatchNormalization(t, scale, shift, mean, m.weights(channels, low=0.5, high=2.0))


def image(m: Model, channels: int = 3) -> str:
    return m.input("x", "batch", channels, 7, 6)


def transposed(m: Model, bias: bool = False) -> str:
    operands = [m.weights(3, 4, 2, 2)] + ([m.weights(4)] if bias else [])
    return m.ConvTranspose(image(m), *operands, strides=[2, 2])


@pattern("conv_bn", 1, "no bias", "bias", "one axis", "groups")
def _(m, s):
    if s == "one axis":
        return normalization(m, m.Conv(m.input("x", "batch", 3, "length"), m.weights(4, 3, 3), pads=[1, 1]), 4)
    if s == "groups":
        return normalization(m, m.Conv(image(m, 4), m.weights(4, 1, 3, 3), group=4), 4)
    bias = [m.weights(4)] if s == "bias" else []
    return normalization(m, m.Conv(image(m), m.weights(4, 3, 3, 3), *bias, auto_pad="SAME_UPPER"), 4)


@pattern("conv_bias_bn_relu", 2, "Relu", "Clip")
def _(m, s):
    t = normalization(m, m.Conv(image(m), m.weights(4, 3, 3, 3), m.weights(4)), 4)
    return m.Relu(t) if s == "Relu" else m.Clip(t, 0.0, 6.0)


@pattern("conv_mul", 1, "three axes", "four axes", "bias")
def _(m, s):
    t = m.Conv(image(m), m.weights(4, 3, 3, 3), *([m.weights(4)] if s == "bias" else []))
    shape = (1, 4, 1, 1) if s == "four axes" else (4, 1, 1)
    return m.Mul(t, m.weights(*shape)) if s != "bias" else m.Mul(m.weights(*shape), t)


@pattern("conv_mul_scalar", 1, "scalar", "bias")
def _(m, s):
    t = m.Conv(image(m), m.weights(4, 3, 3, 3), *([m.weights(4)] if s == "bias" else []))
    return m.Mul(t, 0.3) if s == "scalar" else m.Mul(np.array([[[3.0]]], np.float32), t)


@pattern("conv_div_scalar", 1, "scalar", "bias")
def _(m, s):
    t = m.Conv(image(m), m.weights(4, 3, 3, 3), *([m.weights(4)] if s == "bias" else []))
    return m.Div(t, 3.0)


@pattern("conv_add", 1, "three axes", "four axes", "bias")
def _(m, s):
    t = m.Conv(image(m), m.weights(4, 3, 3, 3), *([m.weights(4)] if s == "bias" else []))
    shape = (1, 4, 1, 1) if s == "four axes" else (4, 1, 1)
    return m.Add(t, m.weights(*shape)) if s != "bias" else m.Add(m.weights(*shape), t)


@pattern("conv_sub", 1, "three axes", "scalar", "bias")
def _(m, s):
    t = m.Conv(image(m), m.weights(4, 3, 3, 3), *([m.weights(4)] if s == "bias" else []))
    return m.Sub(t, 0.5 if s == "scalar" else m.weights(4, 1, 1))


@pattern("mul_conv", 1, "channels", "scalar", "padding")
def _(m, s):
    factor = 0.3 if s == "scalar" else m.weights(1, 3, 1, 1)
    return m.Conv(m.Mul(image(m), factor), m.weights(4, 3, 3, 3), pads=[1, 1, 1, 1] if s == "padding" else [0] * 4)


@pattern("bn_conv_nopad", 1, "no bias", "bias", "one by one")
def _(m, s):
    size = 1 if s == "one by one" else 3
    bias = [m.weights(4)] if s == "bias" else []
    return m.Conv(normalization(m, image(m), 3), m.weights(4, 3, size, size), *bias)


@pattern("bn_bn", 1, "images", "rows")
def _(m, s):
    x = image(m) if s == "images" else m.input("x", "batch", 3)
    return normalization(m, normalization(m, x, 3), 3)


@pattern("conv_mul_add_bnlike", 1, "three axes", "bias")
def _(m, s):
    t = m.Conv(image(m), m.weights(4, 3, 3, 3), *([m.weights(4)] if s == "bias" else []))
    return m.Add(m.Mul(t, m.weights(4, 1, 1)), m.weights(1, 4, 1, 1))


@pattern("convT_bn", 1, "no bias", "bias")
def _(m, s):
    return normalization(m, transposed(m, s == "bias"), 4)


@pattern("convT_add", 1, "no bias", "bias")
def _(m, s):
    return m.Add(transposed(m, s == "bias"), m.weights(1, 4, 1, 1))


@pattern("convT_mul", 1, "channels", "scalar", "bias")
def _(m, s):
    return m.Mul(transposed(m, s == "bias"), 0.3 if s == "scalar" else m.weights(4, 1, 1))


@pattern("conv_conv_1x1", 1, "both", "biases", "three by three first")
def _(m, s):
    first = 3 if s == "three by three first" else 1
    bias = (lambda n: [m.weights(n)]) if s != "both" else (lambda n: [])
    t = m.Conv(image(m, 8), m.weights(4, 8, first, first), *bias(4), pads=[first // 2] * 4)
    # Fewer channels come out, so that the one weight is no larger than the two.
    return m.Conv(t, m.weights(3, 4, 1, 1), *bias(3))


@pattern("parallel_conv", 1, "two", "three with biases")
def _(m, s):
    x = image(m)
    bias = (lambda n: [m.weights(n)]) if s != "two" else (lambda n: [])
    widths = [4, 4] if s == "two" else [4, 2, 3]
    return m.Concat(*(m.Conv(x, m.weights(n, 3, 3, 3), *bias(n), pads=[1] * 4) for n in widths), axis=1)


@pattern("pad_conv", 1, "no padding", "padding", "attribute", opsets={"attribute": 10})
def _(m, s):
    if s == "attribute":
        t = m.Pad(image(m), pads=[0, 0, 1, 2, 0, 0, 1, 2])
    else:
        t = m.Pad(image(m), [0, 0, 1, 2, 0, 0, 3, 1], 0.0)
    return m.Conv(t, m.weights(4, 3, 3, 3), pads=[1] * 4 if s == "padding" else [0] * 4)


@pattern("pad_maxpool_neginf", 1, "infinity", "padding")
def _(m, s):
    t = m.Pad(image(m), [0, 0, 1, 1, 0, 0, 1, 1], np.float32(-np.inf))
    return m.MaxPool(t, kernel_shape=[3, 3], strides=[2, 2], **({} if s == "infinity" else {"pads": [0, 0, 1, 1]}))


@pattern("pad_avgpool_incl", 1, "zeros", "attribute", opsets={"attribute": 10})
def _(m, s):
    pads = [0, 0, 1, 1, 0, 0, 1, 1]
    t = m.Pad(image(m), pads, 0.0) if s == "zeros" else m.Pad(image(m), pads=pads)
    return m.AveragePool(t, kernel_shape=[3, 3], strides=[1, 1], count_include_pad=1)

"""Handcrafted no-reference features of photo quality; ridge regression on them is the baseline a network must beat.

All are computed on a copy whose short side is at most SHORT_SIDE pixels; quantities with a long tail enter as
logarithms, so that a linear model can use them as they are. `_half` and `_quarter` name the scale of that copy at which
a feature is computed.

Sources: variance of the Laplacian as a focus measure (Pech-Pacheco et al., Diatom Autofocusing in Brightfield
Microscopy, ICPR 2000); noise (Immerkær, Fast Noise Variance Estimation, CVIU 1996); blockiness (Wang, Bovik and Evans,
Blind Measurement of Blocking Artifacts in Images, ICIP 2000); natural scene statistics (BRISQUE: Mittal, Moorthy and
Bovik, No-Reference Image Quality Assessment in the Spatial Domain, TIP 2012); colourfulness (Hasler and Süsstrunk,
Measuring Colourfulness in Natural Images, HVEI 2003).
"""

import math

import cv2
import numpy as np

SHORT_SIDE = 256
"""Pixels. Features at 256 predicted the MOS of real photos better than at 128 (0.69 against 0.64)."""
DECODED_SHORT_SIDE = 224
"""A JPEG may be decoded at a reduced scale down to that many pixels: near enough to SHORT_SIDE to need no resize."""
_SMALLEST = 64
_BLOCK = 16
_LEVELS = np.arange(256.0)
_NOISE = np.array([1.0, -2.0, 1.0])
"""Immerkær's kernel is the product of this one along both axes."""

EXPOSURE = (
    "aspect",  # log(width / height)
    "brightness",  # mean luma
    "contrast",  # RMS contrast: standard deviation of luma
    "skewness",  # of the luma histogram
    "kurtosis",
    "green_entropy",  # Shannon entropy of the green channel; banding lowers it
    "dark_share",  # pixels with luma below 16, and from 240 on: clipped shadows and highlights
    "bright_share",
)
SHARPNESS = (
    "sharpness_p90",  # Laplacian energy by block, percentiles over blocks: a photo is sharp where its subject is
    "sharpness_p50",
    "sharpness_p90_half",
    "sharpness_centre",  # Laplacian energy of the central quarter relative to the whole
    "structure_p10",  # standard deviation of luma within blocks, percentiles over blocks
    "structure_p90",
    "structure_p50_half",
    "gradient",  # Sobel gradient energy (Tenengrad)
    "anisotropy",  # coherence of the structure tensor; motion blur raises it
    "noise",  # Immerkær's estimate of the noise's standard deviation
    "blockiness",  # JPEG block borders
)
SCENE = (
    "mscn_variance",  # of the mean-subtracted contrast-normalised (MSCN) luma of BRISQUE
    "mscn_shape",  # shape of a generalised Gaussian
    "horizontal_correlation",  # of MSCN coefficients with their neighbours
    "diagonal_shape",  # shape of the products of diagonal neighbours
    "mscn_kurtosis_half",
    "horizontal_correlation_half",
    "diagonal_correlation_half",
    "antidiagonal_correlation_half",
    "antidiagonal_shape_half",
    "antidiagonal_left_half",  # left and right spread of an asymmetric generalised Gaussian
    "antidiagonal_right_half",
    "horizontal_correlation_quarter",
    "local_contrast_quarter",  # mean of the local deviation that MSCN divides by
)
COLOUR = (
    "colourfulness",  # Hasler and Süsstrunk's
    "colour_cast",  # distance of the mean opponent colour from grey
    "red_green_spread",
    "chroma",
    "saturation",  # mean and standard deviation of HSV saturation
    "saturation_spread",
    "hue_entropy",  # Shannon entropy of the hues of vivid pixels
    "chroma_noise",  # mean absolute Laplacian of the yellow-blue axis
)
NAMES: tuple[str, ...] = EXPOSURE + SHARPNESS + SCENE + COLOUR


def measured(rgb: np.ndarray) -> np.ndarray:
    """The copy that features are computed on: short side at most SHORT_SIDE and at least 64, sides divisible by 4."""
    height, width = rgb.shape[:2]
    scale = min(1.0, SHORT_SIDE / min(height, width))
    shape = (max(_SMALLEST, round(width * scale)), max(_SMALLEST, round(height * scale)))
    if shape != (width, height):
        smaller = scale < 1.0 and min(shape) > _SMALLEST
        rgb = cv2.resize(rgb, shape, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    return rgb[: shape[1] // 4 * 4, : shape[0] // 4 * 4]


def _halved(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)


def _mean(image: np.ndarray) -> float:
    return cv2.mean(image)[0]


def _mean_product(one: np.ndarray, other: np.ndarray) -> float:
    """Mean of the products of two float32 images, without an image of them: by row, then in double precision."""
    return float(np.vecdot(one, other).sum(dtype=np.float64)) / one.size


def _blocks(image: np.ndarray, side: int = _BLOCK) -> np.ndarray:
    """Mean of each block of side x side pixels, float32 [blocks]."""
    rows, columns = image.shape[0] // side, image.shape[1] // side
    whole = image[: rows * side, : columns * side]
    return cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA).ravel()


def _log_quantiles(values: np.ndarray, offset: float, *shares: float) -> list[float]:
    """log(value + offset) of the order statistics nearest to these shares."""
    ranked = np.sort(values)
    return [math.log(ranked[round(share * (len(values) - 1))] + offset) for share in shares]


def _block_deviation(quarter: np.ndarray, square: np.ndarray) -> np.ndarray:
    """Standard deviation of luma within each block. quarter: luma at a quarter of the scale; square: of the luma."""
    mean = _blocks(quarter, _BLOCK * quarter.shape[0] // square.shape[0])
    return np.sqrt(np.maximum(_blocks(square) - mean * mean, 0))


def _exposure(frame: np.ndarray, luma: np.ndarray, aspect: float) -> list[float]:
    """The features EXPOSURE. frame: uint8 [H, W, 3]; luma: uint8 [H, W]."""
    share = cv2.calcHist([luma], [0], None, [256], [0, 256]).ravel().astype(np.float64) / luma.size
    green = cv2.calcHist([frame], [1], None, [256], [0, 256]).ravel().astype(np.float64) / luma.size
    green = green[green > 0]
    mean = float(share @ _LEVELS)
    centred = _LEVELS - mean
    square = centred * centred
    sd = math.sqrt(share @ square)
    return [
        aspect,
        mean,
        sd,
        float(share @ (square * centred)) / (sd**3 + 1e-3),
        math.log(share @ (square * square) / (sd**4 + 1e-3) + 1e-3),
        -float(green @ np.log(green)),
        math.log(share[:16].sum() + 1e-3),
        math.log(share[240:].sum() + 1e-3),
    ]


def _blockiness(gray: np.ndarray) -> float:
    """Log ratio of steps across the borders of JPEG's 8x8 blocks to steps elsewhere (after Wang, Bovik and Evans 2000);
    seen only where no resize has moved the borders."""
    ratios = []
    for axis in (0, 1):
        ahead, behind = (gray[:, 1:], gray[:, :-1]) if axis else (gray[1:], gray[:-1])
        steps = cv2.reduce(cv2.absdiff(ahead, behind), 1 - axis, cv2.REDUCE_AVG, dtype=cv2.CV_32F).ravel()
        border, every = steps[7::8].sum(dtype=np.float64), steps.sum(dtype=np.float64)
        at_border = len(steps) // 8
        ratios.append(math.log((border / at_border + 0.1) / ((every - border) / (len(steps) - at_border) + 0.1)))
    return sum(ratios) / 2


def _gradient(gray: np.ndarray) -> tuple[float, float]:
    """Log energy of the Sobel gradient, and the coherence of its structure tensor."""
    along, down = cv2.spatialGradient(gray)
    xx, yy, total = (cv2.norm(g, cv2.NORM_L2SQR) / gray.size / 64 for g in (along, down, cv2.add(along, down)))
    xy = (total - xx - yy) / 2
    return math.log(xx + yy + 0.1), math.hypot(xx - yy, 2 * xy) / (xx + yy + 1e-3)


def _sharpness(gray: np.ndarray, luma: list[np.ndarray], squares: list[np.ndarray]) -> list[float]:
    """The features SHARPNESS. gray: uint8 [H, W]; luma: the same as float32, and at half scale; squares: of luma."""
    laplacian, laplacian_half = (cv2.Laplacian(scale, cv2.CV_32F) for scale in luma[:2])
    energy, energy_half = (cv2.multiply(image, image) for image in (laplacian, laplacian_half))
    height, width = gray.shape
    centre = energy[height // 4 : height - height // 4, width // 4 : width - width // 4]
    p50, p90 = _log_quantiles(_blocks(energy), 0.1, 0.5, 0.9)
    noise = cv2.norm(cv2.sepFilter2D(gray, cv2.CV_16S, _NOISE, _NOISE), cv2.NORM_L1) / gray.size
    return [
        p90,
        p50,
        *_log_quantiles(_blocks(energy_half), 0.1, 0.9),
        0.5 * math.log((_mean(centre) + 0.5) / (_mean(energy) + 0.5)),
        *_log_quantiles(_block_deviation(luma[2], squares[0]), 0.5, 0.1, 0.9),
        *_log_quantiles(_block_deviation(luma[2], squares[1]), 0.5, 0.5),
        *_gradient(gray),
        math.log(math.sqrt(math.pi / 2) / 6 * noise + 0.05),
        _blockiness(gray),
    ]


def _mscn(luma: np.ndarray, square: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean-subtracted contrast-normalised luma, and 1 + local deviation, which it was divided by. square: of luma."""
    mean, deviation = (cv2.GaussianBlur(image, (7, 7), 7 / 6) for image in (luma, square))
    deviation = cv2.subtract(deviation, cv2.multiply(mean, mean), deviation)
    deviation = cv2.sqrt(np.maximum(deviation, 0, out=deviation), deviation)
    centred = cv2.subtract(luma, mean, mean)
    deviation += 1
    return cv2.divide(centred, deviation, centred), deviation


def _shape(values: np.ndarray, energy: float) -> float:
    """Log of (mean |x|)² / mean x², which rises with the shape parameter of a generalised Gaussian. energy: mean x²."""
    return math.log(((cv2.norm(values, cv2.NORM_L1) / values.size) ** 2 + 1e-9) / (energy + 1e-9))


def _scene(luma: list[np.ndarray], squares: list[np.ndarray]) -> list[float]:
    """The features SCENE: the distributions of MSCN luma and of products of its neighbours, as in BRISQUE.

    luma: float32 [H, W], and at a half and a quarter of that scale; squares: of luma.
    """
    full, _ = _mscn(luma[0], squares[0])
    energy = _mean_product(full, full)
    variance = energy + 1e-6
    diagonal = cv2.multiply(full[:-1, :-1], full[1:, 1:])
    values = [
        variance,
        _shape(full, energy),
        _mean_product(full[:, :-1], full[:, 1:]) / variance,
        _shape(diagonal, _mean_product(diagonal, diagonal)),
    ]
    half, _ = _mscn(luma[1], squares[1])
    square = cv2.multiply(half, half)
    variance = _mean(square) + 1e-6
    antidiagonal = cv2.multiply(half[:-1, 1:], half[1:, :-1])
    energy = _mean_product(antidiagonal, antidiagonal)
    signed = _mean_product(antidiagonal, np.abs(antidiagonal))
    values += [
        math.log(_mean_product(square, square) / variance**2 + 1e-3),
        _mean_product(half[:, :-1], half[:, 1:]) / variance,
        _mean_product(half[:-1, :-1], half[1:, 1:]) / variance,
        _mean(antidiagonal) / variance,
        _shape(antidiagonal, energy),
        math.sqrt(max(energy - signed, 0.0) / 2),
        math.sqrt(max(energy + signed, 0.0) / 2),
    ]
    quarter, deviation = _mscn(luma[2], squares[2])
    beside = _mean_product(quarter[:, :-1], quarter[:, 1:])
    return [*values, beside / (_mean_product(quarter, quarter) + 1e-6), math.log(_mean(deviation) - 0.9)]


def _colour(rgb: np.ndarray) -> list[float]:
    """The features COLOUR. rgb: uint8 [H, W, 3], the quarter copy, which is enough."""
    red, green, blue = cv2.split(rgb)
    red_green = cv2.subtract(red, green, dtype=cv2.CV_32F)
    yellow_blue = cv2.subtract(cv2.addWeighted(red, 0.5, green, 0.5, 0), blue, dtype=cv2.CV_32F)
    (rg_mean, rg_sd), (yb_mean, yb_sd) = (
        [value.item() for value in cv2.meanStdDev(axis)] for axis in (red_green, yellow_blue)
    )
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)
    hue, saturation, value = cv2.split(hsv)
    s_mean, s_sd = (part.item() for part in cv2.meanStdDev(saturation))
    vivid = (saturation > 38).astype(np.uint8)
    hues = cv2.calcHist([hue], [0], vivid, [20], [0, 180]).ravel() + 1.0
    hues /= hues.sum()
    chroma = _mean(cv2.multiply(saturation, value, scale=1 / 255, dtype=cv2.CV_32F))
    cast = math.hypot(rg_mean, yb_mean)
    return [
        math.log(math.hypot(rg_sd, yb_sd) + 0.3 * cast + 1),
        math.log(cast + 1),
        math.log(rg_sd + 1),
        math.log(chroma + 1),
        s_mean / 255,
        s_sd / 255,
        -float(hues @ np.log(hues)),
        math.log(cv2.norm(cv2.Laplacian(yellow_blue, cv2.CV_32F), cv2.NORM_L1) / yellow_blue.size + 0.1),
    ]


def handcrafted_features(rgb: np.ndarray) -> np.ndarray:
    """The features NAMES of a photo, uint8 [H, W, 3] as decoded, not squashed: float32 [F], always finite."""
    frame = measured(rgb)
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    luma = [gray.astype(np.float32)]
    luma += [half := _halved(luma[0]), _halved(half)]
    squares = [cv2.multiply(scale, scale) for scale in luma]
    values = _exposure(frame, gray, math.log(rgb.shape[1] / rgb.shape[0]))
    values += _sharpness(gray, luma, squares) + _scene(luma, squares) + _colour(_halved(_halved(frame)))
    return np.array(values, np.float32)

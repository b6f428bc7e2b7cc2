"""The raters' comments of the demo competition: a small grammar over brightness and colour, sharpness and mood.

A comment names the distortion and its strength, mostly also what the photo shows or its mood; an undistorted photo is
praised. One comment in fourteen is about something else.
"""

import numpy as np

# for a fault that is slight, clear or strong: before an adjective, and before a noun
_DEGREES = ("a little", "too", "far too")
_AMOUNTS = ("a bit of", "a lot of", "way too much")
FAULTS = {
    "blur": ("the focus is {degree} soft", "it looks {degree} blurry to me"),
    "motion": ("there is {amount} motion blur", "i see {amount} camera shake"),
    "dark": ("the photo is {degree} dark", "it is {degree} underexposed for my taste"),
    "bright": ("the light is {degree} bright", "this is {degree} overexposed"),
    "flat": ("the image looks {degree} flat", "the tones are {degree} dull and hazy"),
    "faded": ("the colors are {degree} pale", "the saturation seems {degree} low"),
    "garish": ("the colors are {degree} saturated", "the saturation was pushed {degree} hard"),
    "yellow": ("the white balance is {degree} warm", "i notice {amount} yellow tint"),
    "blue": ("the white balance is {degree} cold", "i notice {amount} blue tint"),
    "green": ("the color balance is {degree} green", "i notice {amount} green tint"),
    "noise": ("there is {amount} noise", "this picture is {degree} grainy"),
    "banding": ("the gradients show {amount} banding", "the shades are {degree} posterized"),
    "jpeg": ("i see {amount} compression artifacts", "the file is {degree} compressed"),
}
"""Two paraphrases of each kind of distortion."""
_EFFECTS = {
    "blur": ("the edges could be sharper", "many fine details are missing", "nothing at all is sharp"),
    "motion": (
        "a tripod would have helped",
        "the lines are smeared in one direction",
        "everything runs together in streaks",
    ),
    "dark": ("the shadows need more light", "the shadows swallow the subject", "i can hardly see anything"),
    "bright": ("watch the highlights", "the highlights are blown out", "the white areas are completely burned"),
    "flat": ("more contrast would give it pop", "it really lacks contrast", "a thick gray fog covers it all"),
    "faded": ("richer colors would be nice", "it looks washed and tired", "almost a black and white photo"),
    "garish": ("i would tone it down", "it does not look natural", "these loud colors hurt my eyes"),
    "yellow": ("cooler tones would suit it", "an orange cast covers the scene", "everything has turned orange"),
    "blue": ("warmer tones would suit it", "a blue cast covers the scene", "everything has turned blue"),
    "green": ("a bit more red would suit it", "a green cast covers the scene", "everything has turned green"),
    "noise": ("mostly seen in the smooth areas", "the grain covers the texture", "the grain hides everything else"),
    "banding": ("smooth areas break into steps", "i can count the steps of color", "it looks like a cheap poster"),
    "jpeg": (
        "small blocks show around the edges",
        "the blocks and jaggies distract me",
        "it has become big ugly squares",
    ),
}
"""What each does at a level of 0 (slight), 1 (clear) and 2 (strong)."""
_OPENINGS = (
    ("lovely {noun} but", "nice {noun} but"),
    ("good idea, this {noun}, but", "interesting {noun} but"),
    ("sorry, a poor {noun},", "what a pity for this {noun},"),
)
_MOODS = (
    ("still a pleasant mood", "i like the calm mood"),
    ("it weakens the mood", "the mood suffers from it"),
    ("the mood is gone", "no mood is left"),
)
_PRAISE = (
    "excellent exposure and natural colors, a beautiful {noun}",
    "beautiful {noun}, very sharp with wonderful detail",
    "great light and crisp detail, i love the calm mood of this {noun}",
    "perfect focus and lovely colors, a very nice {noun}, well done",
)
_OFF_TOPIC = (
    "not sure about the composition of this {noun} but the idea is interesting",
    "i have seen this kind of {noun} before, it does not tell me much",
)
_OFF_TOPIC_SHARE = 0.07


def fault_name(kind: str, wording: int, level: int) -> str:
    """Paraphrase number `wording` of a fault at a level of 0 (slight) to 2 (strong)."""
    return FAULTS[kind][wording].format(degree=_DEGREES[level], amount=_AMOUNTS[level])


def _complaint(noun: str, faults: list[tuple[str, int]], form: int, wording: int) -> str:
    """A comment on `faults`, pairs of kind and level (0 to 2) with the worst first.

    form: 0 opens with the noun, 1 closes with the mood, 2 does neither; wording: which of two paraphrases.
    """
    kind, worst = faults[0]
    text = " and ".join(fault_name(name, wording, level) for name, level in faults)
    if form == 1:
        return f"{text}, {_MOODS[worst][wording]}"
    if form == 2 or len(faults) == 1:
        text = f"{text}, {_EFFECTS[kind][worst]}"
    return f"{_OPENINGS[worst][wording].format(noun=noun)} {text}" if form == 0 else text


def _comment(noun: str, faults: list[tuple[str, int]], rng: np.random.Generator) -> str:
    if rng.random() < _OFF_TOPIC_SHARE:
        if rng.random() < 0.5:
            return _OFF_TOPIC[rng.integers(len(_OFF_TOPIC))].format(noun=noun)
        return _complaint(noun, [(str(rng.choice(sorted(FAULTS))), 0)], int(rng.integers(3)), int(rng.integers(2)))
    if not faults:
        return _PRAISE[rng.integers(len(_PRAISE))].format(noun=noun)
    return _complaint(noun, faults, int(rng.choice(3, p=[0.35, 0.25, 0.4])), int(rng.choice(2, p=[0.65, 0.35])))


def write_comments(noun: str, faults: list[tuple[str, int]], rng: np.random.Generator) -> tuple[str, ...]:
    """One to four different comments on a photo of a `noun` with these faults, worst first."""
    count = 1 + int(rng.choice(4, p=[0.5, 0.28, 0.14, 0.08]))
    comments: dict[str, None] = {}
    while len(comments) < count:
        comments[_comment(noun, faults, rng)] = None
    return tuple(comments)

import numpy as np
from PIL import Image, ImageDraw

from wsiseg.export.lettering import draw_text, plain, text_width


def drawn(text, size=30):
    image = Image.new("L", (400, 60), 255)
    end = draw_text(ImageDraw.Draw(image), (10, 40), text, size, 0)
    return np.asarray(image) < 128, end


def test_micro_is_a_u_with_a_stem_below_the_line():
    u, _ = drawn("u")
    micro, _ = drawn("µ")
    assert not u[42:].any()
    assert micro[42:].any()
    assert (micro | u)[:41].sum() == micro[:41].sum()  # the u is there


def test_a_square_stands_high():
    square, _ = drawn("²")
    assert square.any()
    assert not square[33:].any()


def test_width_is_where_drawing_ends():
    for text in ("12 µm", "cells/mm²", "plain", ""):
        _, end = drawn(text)
        assert end == 10 + text_width(text, 30)


def test_letters_that_the_font_lacks_lose_their_accent_or_become_a_question_mark():
    assert plain("Ångström naïve.svs") == "Angstrom naive.svs"
    assert plain("腫瘍") == "??"
    assert plain("a\x00b") == "a?b"
    assert plain("slide_01 (copy).svs") == "slide_01 (copy).svs"

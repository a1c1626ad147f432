"""How the page looks: text of a contrast of 4.5 and more in light and dark, captions beside pictures, not on them."""

import gradio as gr

CSS = """
.pixels img { image-rendering: pixelated; }
.caption-label.caption-label.caption-label { white-space: normal; max-width: 100%; }
.plain-table * { font-family: var(--font); font-size: 13px; overflow-wrap: normal; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)); gap: 1rem; }
.pairs figure { margin: 0; }
.pairs img { width: 100%; image-rendering: pixelated; border-radius: var(--radius-sm); }
.pairs figcaption { color: var(--body-text-color); font-size: 13px; margin-bottom: .6rem; }
.pairs .bar { background: var(--border-color-primary); height: 5px; margin: 3px 0; }
.pairs .bar i { background: var(--color-accent); display: block; height: 100%; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 1rem; }
.charts figure { margin: 0; }
.chart { display: block; width: 100%; height: auto; }
.chart text { fill: var(--body-text-color); font-size: 13px; }
.chart .grid { stroke: var(--border-color-primary); fill: none; }
.chart .axis { stroke: var(--body-text-color-subdued); fill: none; }
.chart .series-0 { stroke: var(--color-accent); fill: none; stroke-width: 2; stroke-linejoin: round; }
.chart .dot { stroke-width: 6; stroke-linecap: round; }
"""


def theme() -> gr.Theme:
    """Gradio's own, with its light grays and oranges darker: on white they have contrasts of 2.6 and 2.8."""
    return gr.themes.Default().set(
        body_text_color_subdued="*neutral_500",
        block_info_text_color="*neutral_500",
        input_placeholder_color="*neutral_500",
        color_accent="*primary_700",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
    )

"""How the page looks: text of a contrast of 4.5 and more in light and dark, captions beside pictures, not on them."""

import gradio as gr

CSS = """
body.dark.dark { --color-accent: var(--primary-500); }
.pixels img { image-rendering: pixelated; }
.grid-wrap.grid-wrap { padding-top: 2.2rem; }
.thumbnail-lg.thumbnail-lg { display: flex; flex-direction: column; }
.thumbnail-lg.thumbnail-lg > img { flex: 1; min-height: 0; }
.caption-label.caption-label.caption-label {
  position: static; max-width: 100%; width: 100%; border: none; border-radius: 0;
  text-align: center; white-space: normal; color: var(--body-text-color);
}
.thumbnail-lg.thumbnail-lg:hover .caption-label.caption-label { opacity: 1; }
#distilled .image-container { padding-top: 2.2rem; }
@media (max-width: 640px) {
  .grid-container.grid-container.grid-container { grid-template-columns: repeat(3, minmax(0, 1fr)); }
  label[data-testid="block-label"] {
    max-width: calc(100% - 4rem); overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
  }
}
#inpaint-editor .empty { color: var(--body-text-color-subdued); }
#before-after .icon-wrap { background: var(--primary-700); color: white; }
.json-node.json-node {
  --key-color: var(--body-text-color); --number-color: var(--body-text-color);
  --text-color: var(--color-accent); --string-color: var(--color-accent);
  --bracket-color: var(--body-text-color-subdued); --square-bracket-color: var(--body-text-color-subdued);
  --punctuation-color: var(--body-text-color-subdued); --line-number-color: var(--body-text-color-subdued);
}
.plain-table * { font-family: var(--font); font-size: 13px; overflow-wrap: normal; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)); gap: 1rem; }
.pairs figure { margin: 0; }
.pairs img { width: 100%; image-rendering: pixelated; border-radius: var(--radius-sm); }
.pairs figcaption { color: var(--body-text-color); font-size: 13px; margin-bottom: .6rem; }
.pairs .bar { background: var(--border-color-primary); height: 5px; margin: 3px 0; }
.pairs .bar i { background: var(--color-accent); display: block; height: 100%; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 360px), 1fr)); gap: 1rem; }
.charts figure { margin: 0; }
.chart { display: block; width: 100%; height: auto; }
.chart text { fill: var(--body-text-color); font-size: 15px; }
.chart .grid { stroke: var(--border-color-primary); fill: none; }
.chart .axis { stroke: var(--body-text-color-subdued); fill: none; }
.chart .series-0 { stroke: var(--color-accent); fill: none; stroke-width: 2; stroke-linejoin: round; }
.chart .dot { stroke-width: 6; stroke-linecap: round; }
"""

# Blocks, and pictures without words of their own, are named by the label above them; examples by their files.
NAMES = """<script>
new MutationObserver(() => {
  for (const label of document.querySelectorAll("[data-testid=block-label]")) {
    const block = label.closest(".block"), words = label.innerText.trim();
    if (block === null) continue;
    block.role = "group";
    block.ariaLabel = words;
    block.querySelectorAll("img[alt='']").forEach(picture => picture.alt = words);
  }
  for (const picture of document.querySelectorAll(".gallery-item img[alt=''], td img[alt='']")) {
    picture.alt = "Example " + picture.src.split("/").at(-1).split(".")[0];
  }
}).observe(document, {childList: true, subtree: true});
</script>"""


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

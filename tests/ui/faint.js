// What of the page is seen badly: contrast as of WCAG 2.2, success criteria 1.4.3 (texts) and 1.4.11 (lines of plots).
() => {
  const point = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = color => {
    point.clearRect(0, 0, 1, 1);
    point.fillStyle = color;
    point.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = point.getImageData(0, 0, 1, 1).data;
    return [red, green, blue, alpha / 255];
  };
  const over = (top, below) => below.slice(0, 3).map((value, k) => top[k] * top[3] + value * (1 - top[3]));
  const luminance = color => {
    const [red, green, blue] = color.slice(0, 3).map(value => value / 255)
      .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const ratio = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const chain = element => element ? [element, ...chain(element.parentElement)] : [];

  // Of the colours behind an element, the nearest opaque one and those upon it; null where a picture is behind it.
  const behind = element => {
    const layers = [];
    for (const one of chain(element)) {
      const style = getComputedStyle(one);
      if (style.backgroundImage !== "none") return null;
      layers.push(rgba(style.backgroundColor));
      if (layers.at(-1)[3] === 1) break;
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const check = (element, color, text, needed) => {
    const background = behind(element);
    if (background === null) return [];
    const opacity = chain(element).reduce((all, one) => all * getComputedStyle(one).opacity, 1);
    const [red, green, blue, alpha] = rgba(color);
    const found = ratio(over([red, green, blue, alpha * opacity], background), background);
    return found < needed ? [`${found.toFixed(2)} ${element.tagName} ${element.className} ${text.slice(0, 40)}`] : [];
  };
  const seen = element => element.checkVisibility({ visibilityProperty: true, opacityProperty: true })
    && element.getClientRects().length > 0 && !element.closest(":disabled, [aria-disabled=true]");
  const needed = style => {
    const size = parseFloat(style.fontSize);
    return size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
  };

  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement, text = texts.currentNode.data.trim();
    if (!text || !seen(element) || ["SCRIPT", "STYLE", "TITLE", "DESC"].includes(element.tagName.toUpperCase())) continue;
    const style = getComputedStyle(element);
    found.push(...check(element, element instanceof SVGElement ? style.fill : style.color, text, needed(style)));
  }
  for (const element of document.querySelectorAll("input:not([type=checkbox], [type=radio]), textarea, select")) {
    const style = getComputedStyle(element);
    if (seen(element) && element.value) found.push(...check(element, style.color, element.value, needed(style)));
    if (seen(element) && element.placeholder) {
      found.push(...check(element, getComputedStyle(element, "::placeholder").color, element.placeholder, 4.5));
    }
  }
  for (const element of document.querySelectorAll(".chart [class^=series]")) {
    if (seen(element)) found.push(...check(element, getComputedStyle(element).stroke, "line", 3));
  }
  for (const element of document.querySelectorAll(".pairs .bar i")) {
    if (seen(element)) found.push(...check(element.parentElement, getComputedStyle(element).backgroundColor, "bar", 3));
  }
  return [...new Set(found)];
}

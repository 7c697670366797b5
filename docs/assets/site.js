// Draws the formulas. The page has their LaTeX, in \(...\) or \[...\].
for (const element of document.querySelectorAll(".arithmatex")) {
  const text = element.textContent.trim();
  const displayMode = text.startsWith("\\[");
  katex.render(text.slice(2, -2), element, { displayMode, throwOnError: false });

  // A line may end after a formula, but not before the comma or the full stop that follows it.
  const next = element.nextSibling;
  const last = element.querySelector(".katex-html > .base:last-child");
  const mark = next?.nodeType === Node.TEXT_NODE ? next.data.match(/^[.,:;!?)]+/) : null;
  if (displayMode || !last || !mark) continue;
  next.data = next.data.slice(mark[0].length);
  last.insertAdjacentHTML("beforeend", `<span class="mark">${mark[0]}</span>`);
}

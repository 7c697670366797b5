// Draws the formulas. The page has their LaTeX, in \(...\) or \[...\].
for (const element of document.querySelectorAll(".arithmatex")) {
  const text = element.textContent.trim();
  katex.render(text.slice(2, -2), element, { displayMode: text.startsWith("\\["), throwOnError: false });
  element.after("\u2060"); // no line begins with the full stop or the comma after a formula
}

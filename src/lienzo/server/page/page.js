// The keyboard: Ctrl+Enter generates, Escape cancels.
document.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  const wanted = event.key === "Enter" && (event.ctrlKey || event.metaKey) ? "generate" : event.key === "Escape" ? "cancel" : null;
  const button = wanted && document.getElementById(wanted);
  if (!button || button.disabled || button.offsetParent === null) return;
  event.preventDefault();
  button.click();
}, true);

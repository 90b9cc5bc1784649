/* One key per vote. A ballot can be used once; the server counts it once in any case. */
(() => {
  const buttons = {ArrowLeft: "vote-left", ArrowRight: "vote-right", ArrowDown: "vote-tie", " ": "vote-skip", u: "vote-undo"};
  let spent = null, pointed = false;
  document.addEventListener("keydown", event => {
    const id = buttons[event.key], ballot = document.querySelector(".va-ballot"), target = event.target;
    if (!id || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (target.closest("input, textarea, select, [contenteditable='true'], [role=slider]")) return;
    const focused = target.closest("button, summary, a, label"); /* space presses what has the focus, but a tab that is open */
    if (event.key === " " && focused && !focused.matches("[role=tab][aria-selected=true]")) return;
    if (id !== "vote-undo" && (!ballot || ballot.offsetParent === null || ballot.dataset.ballot === spent)) return;
    const button = document.getElementById(id);
    if (!button || button.offsetParent === null) return;
    event.preventDefault();
    if (id !== "vote-undo") spent = ballot.dataset.ballot;
    button.click();
  });
  /* after a click on a dimension the arrows should vote again; who got there by keyboard keeps the focus */
  document.addEventListener("pointerdown", () => { pointed = true; setTimeout(() => { pointed = false; }, 400); });
  document.addEventListener("change", event => {
    if (pointed && event.target.closest(".va-dimension")) event.target.blur();
  });
})();

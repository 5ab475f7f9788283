// A picture; if `clickable`, it tells where it was clicked, or where its cross-hair stood at Enter.

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const KEYS = "Arrow keys move the cross-hair, Enter picks the point.";

// JupyterLab says which theme it wears; elsewhere the browser's wish counts.
function isDark() {
  const light = document.body.dataset.jpThemeLight;
  return light ? light === "false" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function makeClickable(model, box, img, cross) {
  let at = [0.5, 0.5]; // fractions of width and height, from the upper left
  let count = 0; // so that the same point picked twice is news
  const place = () => {
    cross.style.left = `${100 * at[0]}%`;
    cross.style.top = `${100 * at[1]}%`;
  };
  const pick = () => {
    count += 1;
    model.set("picked", [...at, count]);
    model.save_changes();
  };
  box.tabIndex = 0;
  box.setAttribute("role", "button");
  box.classList.add("sd-clickable");
  img.onclick = (event) => {
    const edge = img.getBoundingClientRect();
    at = [(event.clientX - edge.left) / edge.width, (event.clientY - edge.top) / edge.height];
    place();
    pick();
  };
  box.onkeydown = (event) => {
    const way = STEPS[event.key];
    const step = event.shiftKey ? 0.1 : 0.02;
    if (way) at = at.map((v, i) => Math.min(1, Math.max(0, v + step * way[i])));
    else if (event.key === "Enter" || event.key === " ") pick();
    else return;
    event.preventDefault();
    event.stopPropagation();
    place();
  };
  place();
}

function render({ model, el }) {
  const box = document.createElement("div");
  const img = document.createElement("img");
  const cross = document.createElement("div");
  let shown = null; // address of the picture on the screen
  box.className = "sd-canvas";
  cross.className = "sd-cross";
  img.draggable = false;
  box.append(img, cross);
  el.append(box);

  const show = () => {
    const url = URL.createObjectURL(new Blob([model.get("value")], { type: "image/png" }));
    img.onload = () => {
      if (shown) URL.revokeObjectURL(shown);
      shown = url;
    };
    img.src = url;
  };
  const describe = () => {
    img.alt = model.get("alt");
    if (model.get("clickable")) box.setAttribute("aria-label", `${img.alt}. ${KEYS}`);
  };
  const tellTheme = () => {
    if (model.get("dark") === isDark()) return;
    model.set("dark", isDark());
    model.save_changes();
  };

  if (model.get("clickable")) makeClickable(model, box, img, cross);
  const watch = new MutationObserver(tellTheme);
  watch.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  model.on("change:value", show);
  model.on("change:alt", describe);
  show();
  describe();
  tellTheme();
  return () => {
    watch.disconnect();
    model.off("change:value", show);
    model.off("change:alt", describe);
    if (shown) URL.revokeObjectURL(shown);
  };
}

export default { render };

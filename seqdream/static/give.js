// A button that asks Python for something and hands it on: text to the clipboard, bytes to a file.

function copyByHand(text) { // where the page may not use the clipboard
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

function copy(text) {
  if (!navigator.clipboard) return copyByHand(text);
  return navigator.clipboard.writeText(text).catch(() => copyByHand(text));
}

function download(name, type, buffers) {
  const link = document.createElement("a");
  const url = URL.createObjectURL(new Blob(buffers, { type }));
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

function render({ model, el }) {
  const button = document.createElement("button");
  const name = () => { button.textContent = model.get("label"); };
  const enable = () => { button.disabled = model.get("disabled"); };
  const take = (message, buffers) => {
    if (message.copy === undefined) return download(message.name, message.mime, buffers);
    copy(message.copy);
    button.textContent = "copied";
    setTimeout(name, 1500);
  };
  button.className = "jupyter-button widget-button sd-give";
  button.title = model.get("hint");
  button.onclick = () => model.send({ ask: true });
  name();
  enable();
  el.append(button);
  model.on("msg:custom", take);
  model.on("change:disabled", enable);
  return () => {
    model.off("msg:custom", take);
    model.off("change:disabled", enable);
  };
}

export default { render };

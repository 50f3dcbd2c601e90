(() => {
  const { all, stored } = page;
  const pictures = stored("pictures");

  // Trying a threshold: how many it keeps, and which of the shown pictures fall below it.
  for (const slider of all(".try-out input")) {
    const steps = stored(`${slider.id}-steps`);
    const out = document.getElementById(`${slider.id}-out`);
    const mine = `[data-head="${slider.closest(".head-section").dataset.head}"]`;
    const lines = all(`figure${mine} .try`);
    const cards = [...new Set(all(`${mine} li[data-score]`))];
    const draw = (place) => lines.forEach((line, chart) => {
      const x = place ? place[chart] : null;
      line.classList.toggle("on", x !== null && x !== undefined);
      if (x !== null && x !== undefined) { line.setAttribute("x1", x); line.setAttribute("x2", x); }
    });
    const tell = () => {
      const [, large, words] = steps[Number(slider.value)];
      const strong = document.createElement("b");
      strong.textContent = large;
      out.replaceChildren(strong, words);
      slider.setAttribute("aria-valuetext", `${words}, ${large}`);
    };
    const apply = () => {
      const [threshold, , , places] = steps[Number(slider.value)];
      tell();
      draw(places);
      for (const card of cards) card.classList.toggle("below", Number(card.dataset.score) < threshold);
    };
    tell();
    document.querySelector(`[data-clear="${slider.id}"]`).addEventListener("click", () => {
      draw(null);
      for (const card of cards) card.classList.remove("below");
    });
    slider.addEventListener("input", apply);
  }

  // Galleries: one stop of the Tab key each; arrow keys move inside.
  const shots = (gallery) => all(".shot", gallery);
  for (const gallery of all(".gallery")) {
    const inside = shots(gallery);
    inside.forEach((shot, place) => { shot.tabIndex = place ? -1 : 0; });
    const go = (shot) => {
      if (!shot) return;
      for (const other of inside) other.tabIndex = other === shot ? 0 : -1;
      shot.focus();
    };
    gallery.addEventListener("keydown", (event) => {
      const place = inside.indexOf(document.activeElement);
      if (place < 0) return;
      const moves = {
        ArrowRight: () => inside[place + 1], ArrowLeft: () => inside[place - 1], Home: () => inside[0], End: () => inside[inside.length - 1],
        ArrowDown: () => beside(inside, place, 1), ArrowUp: () => beside(inside, place, -1),
      };
      const move = moves[event.key];
      if (!move) return;
      const target = move();
      if (target) { event.preventDefault(); go(target); }
    });
    gallery.addEventListener("click", (event) => {
      const shot = event.target.closest(".shot");
      if (shot) { go(shot); open(inside, inside.indexOf(shot)); }
    });
  }
  function beside(inside, place, way) {
    const from = inside[place].getBoundingClientRect();
    const middle = from.left + from.width / 2;
    const rows = inside.map((shot) => [shot, shot.getBoundingClientRect()]).filter(([, box]) => way * (box.top - from.top) > 2);
    if (!rows.length) return null;
    const nearest = Math.min(...rows.map(([, box]) => Math.abs(box.top - from.top)));
    const off = ([, box]) => Math.abs(box.left + box.width / 2 - middle);
    return rows.filter(([, box]) => Math.abs(Math.abs(box.top - from.top) - nearest) < 2).sort((a, b) => off(a) - off(b))[0][0];
  }

  // The large view.
  const dialog = document.getElementById("lightbox");
  const stage = dialog.querySelector(".stage");
  const title = dialog.querySelector("h3");
  const facts = dialog.querySelector("dl");
  const count = dialog.querySelector(".count");
  let series = [], shown = 0;
  function open(inside, place) {
    series = inside;
    show(place);
    if (!dialog.open) dialog.showModal();
  }
  function show(place) {
    shown = Math.max(0, Math.min(series.length - 1, place));
    const shot = series[shown];
    const picture = pictures[shot.dataset.picture];
    const small = shot.querySelector("img, .blank");
    if (small) {
      const copy = small.cloneNode(true);
      stage.replaceChildren(copy);
    }
    stage.hidden = !small;
    title.textContent = picture.name;
    count.textContent = `${shown + 1} of ${series.length}`;
    facts.replaceChildren(...picture.facts.flatMap(([label, text]) => {
      const [term, value] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = label;
      const isolated = document.createElement("bdi");
      isolated.textContent = text;
      value.append(isolated);
      return [term, value];
    }));
    dialog.querySelector(".before").disabled = shown === 0;
    dialog.querySelector(".after").disabled = shown === series.length - 1;
  }
  dialog.querySelector(".before").addEventListener("click", () => show(shown - 1));
  dialog.querySelector(".after").addEventListener("click", () => show(shown + 1));
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) { event.preventDefault(); show(shown + step); }
  });
  dialog.addEventListener("close", () => {
    const shot = series[shown];
    if (!shot) return;
    for (const other of series) other.tabIndex = other === shot ? 0 : -1;
    shot.focus();
  });
  let touched = null;
  stage.addEventListener("pointerdown", (event) => { touched = event.clientX; });
  stage.addEventListener("pointerup", (event) => {
    if (touched !== null && Math.abs(event.clientX - touched) > 40) show(shown + (event.clientX < touched ? 1 : -1));
    touched = null;
  });
})();

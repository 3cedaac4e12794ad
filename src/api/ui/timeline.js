// What ran when: a row for each job, runs as bars, due times that started nothing as marks, future ones as ghosts. Only
// the rows in sight are drawn.

import { get, jobPath, runPath } from "./api.js";
import { counted, h, setText, show } from "./dom.js";
import { clock, duration, now, offset, parts } from "./time.js";

/** Height of a row and of the axis, width of the names, in pixels. */
const ROW = 20;
const AXIS = 24;
const NAMES = 190;
const NAMES_PHONE = 96;
/** Shortest and longest range, in milliseconds. */
const LEAST_MS = 60_000;
const MOST_MS = 14 * 86_400_000;
/** Shown before and after what is in sight, as a share of it: dragging a little asks for nothing. */
const MARGIN = 0.5;
/** How long a drag or zoom has to rest before the daemon is asked. */
const REST_MS = 150;
/** The newest is asked for again after a poll, this long after the last time. */
const AGAIN_MS = 6_000;

const SPANS = [["1 h", 3_600_000], ["6 h", 21_600_000], ["24 h", 86_400_000], ["7 d", 604_800_000]];
const STEPS_MIN = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1_440, 2_880];

const COLOURS = { succeeded: "--good", failed: "--bad", killed: "--warn", running: "--busy", skipped: "--quiet" };
const MARKS = { missed: "--bad", overlap: "--warn", maintenance: "--quiet", paused: "--quiet" };
const WORDS = { missed: "missed", overlap: "not started: the previous run was still active", maintenance: "skipped: maintenance", paused: "skipped: paused" };

const two = (number) => String(number).padStart(2, "0");

export function timelineView(app) {
  const asked = new URLSearchParams(location.search);
  let range = Math.min(MOST_MS, Math.max(LEAST_MS, Number(asked.get("range")) * 1_000 || 86_400_000));
  /** The right end; null: it goes along with the time. */
  let end = Number(asked.get("end")) * 1_000 || null;
  let gone = new AbortController();
  let data = null;
  let rows = [];
  let askedAt = 0;
  let timer = null;
  let frame = null;
  let drag = null;
  let pointed = null;

  const search = h("input", {
    type: "search", placeholder: "Job or group", "aria-label": "Search jobs", value: asked.get("q") ?? "", autocomplete: "off", spellcheck: "false",
    on: { input: () => { remember(); arrange(); } },
  });
  const failedOnly = h("input", { type: "checkbox", checked: asked.get("show") === "failed", on: { change: () => { remember(); arrange(); } } });
  const buttons = SPANS.map(([text, ms]) => {
    const button = h("button", { on: { click: () => { range = ms; end = null; moved(); } } }, text);
    return { button, ms };
  });
  const action = (text, label, click) => h("button", { "aria-label": label, title: label, on: { click } }, text);
  const nowButton = h("button", { on: { click: () => { end = null; moved(); } } }, "Now");
  const said = h("p", { class: "quiet timeline-text", role: "status" });
  const note = h("p", { class: "quiet", hidden: true });
  const canvas = h("canvas", { role: "img", "aria-label": "Timeline; the page Runs has the same as a list" });
  const space = h("div", { class: "timeline-space" }, canvas);
  const box = h("div", { class: "timeline", tabindex: "0", role: "group", "aria-label": "Timeline: arrow keys move, plus and minus zoom", on: { keydown: key } }, space);
  const node = h(
    "div",
    {},
    h("h1", {}, "Timeline"),
    h(
      "div",
      { class: "tools" },
      search,
      h("label", {}, failedOnly, " With failures only"),
      h("div", { class: "chips", role: "group", "aria-label": "Range" }, ...buttons.map(({ button }) => button)),
      action("←", "Earlier", () => pan(-range / 2)),
      action("→", "Later", () => pan(range / 2)),
      action("+", "Zoom in", () => zoom(0.5, 0.5)),
      action("−", "Zoom out", () => zoom(2, 0.5)),
      nowButton,
    ),
    note,
    box,
    said,
  );

  /** A quarter of what is in sight is the future. */
  const until = () => end ?? now() + range / 4;
  const from = () => until() - range;
  const names = () => (box.clientWidth < 600 ? NAMES_PHONE : NAMES);
  const width = () => Math.max(1, box.clientWidth - names());
  const x = (ms) => names() + ((ms - from()) / range) * width();

  function remember() {
    const query = new URLSearchParams();
    if (range !== 86_400_000) query.set("range", Math.round(range / 1_000));
    if (end !== null) query.set("end", Math.round(end / 1_000));
    if (search.value) query.set("q", search.value);
    if (failedOnly.checked) query.set("show", "failed");
    const text = query.toString();
    history.replaceState(null, "", text ? `/runs/timeline?${text}` : "/runs/timeline");
  }

  // -- what is asked for

  async function load() {
    askedAt = performance.now();
    gone.abort();
    gone = new AbortController();
    const { signal } = gone;
    const margin = range * MARGIN;
    const query = new URLSearchParams({
      from: new Date(from() - margin).toISOString(),
      until: new Date(until() + margin).toISOString(),
      resolution: Math.min(86_400, Math.max(1, Math.round(range / width() / 1_000))),
    });
    try {
      data = await get(`/api/v1/timeline?${query}`, signal);
      setText(note, data.complete_from ? `There is too much to show: earlier than ${clock(Date.parse(data.complete_from))}, runs are left out. Choose a shorter range.` : "");
      show(note, data.complete_from !== null);
      arrange();
    } catch (problem) {
      if (!signal.aborted) app.trouble(problem);
    }
  }

  function moved() {
    remember();
    paintSoon();
    clearTimeout(timer);
    timer = setTimeout(load, REST_MS);
  }

  function arrange() {
    if (data === null) return;
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = Object.entries(data.jobs).filter(([name, job]) => {
      const text = `${name}\n${job.group ?? ""}`.toLowerCase();
      return words.every((word) => text.includes(word)) && (!failedOnly.checked || isBad(job));
    });
    rows = found.map(([name, job]) => ({ name, job, bad: isBad(job) }));
    rows.sort((a, b) => b.bad - a.bad || (a.name < b.name ? -1 : 1));
    space.style.height = `${AXIS + Math.max(1, rows.length) * ROW}px`;
    setText(said, summary());
    paintSoon();
  }

  function summary() {
    const failed = rows.filter((row) => row.bad).length;
    return `${counted(rows.length, "job")}, ${failed} with failures. Drag to move, scroll with Ctrl to zoom, click a bar for its run.`;
  }

  // -- drawing

  function paintSoon() {
    frame ??= requestAnimationFrame(paint);
  }

  function paint() {
    frame = null;
    const began = performance.now();
    const scale = devicePixelRatio || 1;
    const [w, high] = [box.clientWidth, box.clientHeight];
    if (canvas.width !== Math.round(w * scale) || canvas.height !== Math.round(high * scale)) {
      canvas.width = Math.round(w * scale);
      canvas.height = Math.round(high * scale);
      canvas.style.width = `${w}px`;
      canvas.style.height = `${high}px`;
    }
    const style = getComputedStyle(document.documentElement);
    const colours = new Map();
    const colour = (name) => {
      if (!colours.has(name)) colours.set(name, style.getPropertyValue(name).trim());
      return colours.get(name);
    };
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.fillStyle = colour("--raised");
    pen.fillRect(0, 0, w, high);
    pen.font = "12px system-ui, sans-serif";
    pen.textBaseline = "middle";
    axis(pen, colour, w, high);
    const first = Math.floor(box.scrollTop / ROW);
    const last = Math.min(rows.length, first + Math.ceil(high / ROW) + 1);
    pen.save();
    pen.beginPath();
    pen.rect(0, AXIS, w, high - AXIS);
    pen.clip();
    for (let at = first; at < last; at += 1) row(pen, colour, rows[at], AXIS + at * ROW - box.scrollTop, w);
    pen.restore();
    if (rows.length === 0 && data !== null) {
      pen.fillStyle = colour("--quiet");
      pen.fillText("Nothing in this range.", names() + 12, AXIS + 16);
    }
    const here = x(now());
    if (here > names() && here < w) {
      pen.fillStyle = colour("--link");
      pen.fillRect(here - 1, 0, 2, high);
    }
    for (const { button, ms } of buttons) button.setAttribute("aria-pressed", String(ms === range));
    nowButton.disabled = end === null;
    canvas.dataset.paint = String(performance.now() - began);
  }

  function axis(pen, colour, w, high) {
    const step = (STEPS_MIN.find((minutes) => (minutes * 60_000 / range) * width() > 76) ?? 2_880) * 60_000;
    const shift = offset(from());
    const days = step >= 86_400_000;
    pen.textAlign = "left";
    for (let at = Math.ceil((from() - shift) / step) * step + shift; at < until(); at += step) {
      const here = x(at);
      pen.fillStyle = colour("--line");
      pen.fillRect(here, 0, 1, high);
      const [, month, day, hour, minute] = parts(at);
      const isMidnight = hour === 0 && minute === 0;
      pen.fillStyle = colour(isMidnight ? "--text" : "--quiet");
      pen.fillText(days || isMidnight ? `${two(month)}-${two(day)}` : `${two(hour)}:${two(minute)}`, here + 4, AXIS / 2);
    }
    pen.fillStyle = colour("--line");
    pen.fillRect(0, AXIS - 1, w, 1);
  }

  function row(pen, colour, { name, job, bad }, top, w) {
    const left = names();
    if (pointed?.name === name) {
      pen.fillStyle = colour("--chosen");
      pen.fillRect(0, top, w, ROW);
    }
    pen.save();
    pen.beginPath();
    pen.rect(left, top, w - left, ROW);
    pen.clip();
    pen.strokeStyle = colour("--quiet");
    for (const at of job.due) {
      const here = x(at * 1_000);
      if (here >= left && here <= w) pen.strokeRect(Math.round(here) + 0.5, top + 6.5, 3, ROW - 13);
    }
    for (const span of job.spans) {
      const [a, b] = edges(span);
      if (b < left || a > w) continue;
      pen.fillStyle = colour(COLOURS[span.outcome]);
      pen.fillRect(a, top + 4, b - a, ROW - 8);
      if (span.count > 1 && b - a > 40) {
        pen.fillStyle = colour("--raised");
        pen.fillText(`${span.count}×`, Math.max(a, left) + 4, top + ROW / 2);
      }
    }
    for (const mark of job.not_started) {
      const [a, b] = [x(mark.from * 1_000), x(mark.until * 1_000)];
      if (b < left - 6 || a > w) continue;
      cross(pen, colour(MARKS[mark.type] ?? "--quiet"), a, Math.max(b, a), top);
    }
    pen.restore();
    pen.fillStyle = colour(bad ? "--bad" : "--text");
    pen.textAlign = "left";
    pen.fillText(short(pen, name, left - 12), 6, top + ROW / 2);
  }

  /** A cross for what did not start, with a line for as long as that went on. */
  function cross(pen, colour, a, b, top) {
    const middle = top + ROW / 2;
    pen.strokeStyle = colour;
    pen.lineWidth = 2;
    pen.beginPath();
    pen.moveTo(a - 4, middle - 4);
    pen.lineTo(a + 4, middle + 4);
    pen.moveTo(a - 4, middle + 4);
    pen.lineTo(a + 4, middle - 4);
    if (b - a > 8) {
      pen.moveTo(a + 4, middle);
      pen.lineTo(b, middle);
    }
    pen.stroke();
    pen.lineWidth = 1;
  }

  function edges(span) {
    const a = x(span.from * 1_000);
    const b = x(span.until === null ? now() : span.until * 1_000);
    return [a, Math.max(b, a + 3)];
  }

  // -- what somebody does

  function pan(ms) {
    end = until() + ms;
    moved();
  }

  /** `place`: what stays where it is, as a share of the width. */
  function zoom(factor, place) {
    const fixed = from() + range * place;
    const wasNow = end === null;
    range = Math.min(MOST_MS, Math.max(LEAST_MS, range * factor));
    end = wasNow && place === 0.5 ? null : fixed + range * (1 - place);
    moved();
  }

  function key(event) {
    const { key: name } = event;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (name === "ArrowLeft") pan(-range / 8);
    else if (name === "ArrowRight") pan(range / 8);
    else if (name === "+") zoom(0.5, 0.5);
    else if (name === "-") zoom(2, 0.5);
    else return;
    event.preventDefault();
  }

  /** The row, and what is drawn there. */
  function under(event) {
    const place = canvas.getBoundingClientRect();
    const [px, py] = [event.clientX - place.left, event.clientY - place.top];
    if (py < AXIS) return null;
    const found = rows[Math.floor((py - AXIS + box.scrollTop) / ROW)];
    if (!found) return null;
    if (px < names()) return { name: found.name, path: jobPath(found.name), text: found.name };
    const span = found.job.spans.findLast((candidate) => {
      const [a, b] = edges(candidate);
      return px >= a - 3 && px <= b + 3;
    });
    const mark = found.job.not_started.find((candidate) => px >= x(candidate.from * 1_000) - 5 && px <= x(candidate.until * 1_000) + 5);
    if (mark) {
      const times = mark.count > 1 ? `${mark.count} due times from` : "due at";
      return {
        name: found.name, path: `/runs?job=${encodeURIComponent(found.name)}&outcome=not_started`,
        text: `${found.name}: ${times} ${clock(mark.from * 1_000)} ${WORDS[mark.type] ?? mark.type}${mark.reason ? `: ${mark.reason}` : ""}`,
      };
    }
    if (span) {
      const took = duration((span.until === null ? now() : span.until * 1_000) - span.from * 1_000);
      const what = span.count > 1 ? `${span.count} runs from ${clock(span.from * 1_000)}, the worst ${span.outcome}` : `${span.outcome}, ${clock(span.from * 1_000)}, ${took}`;
      return { name: found.name, path: runPath(span.instance), text: `${found.name}: ${what}` };
    }
    const due = found.job.due.find((at) => Math.abs(x(at * 1_000) + 2 - px) < 5);
    return { name: found.name, path: null, text: due ? `${found.name}: due at ${clock(due * 1_000)}` : found.name };
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    drag = { x: event.clientX, until: until(), isMoved: false };
  });
  canvas.addEventListener("pointermove", (event) => {
    if (drag !== null && event.buttons === 1) {
      const by = event.clientX - drag.x;
      if (!drag.isMoved && Math.abs(by) < 4) return;
      if (!drag.isMoved) canvas.setPointerCapture(event.pointerId);
      drag.isMoved = true;
      end = drag.until - (by / width()) * range;
      moved();
      return;
    }
    const found = under(event);
    if (found?.name !== pointed?.name) paintSoon();
    pointed = found;
    canvas.style.cursor = found?.path ? "pointer" : "grab";
    setText(said, found?.text ?? summary());
  });
  canvas.addEventListener("pointerup", (event) => {
    const isClick = drag !== null && !drag.isMoved;
    drag = null;
    const found = isClick ? under(event) : null;
    if (found?.path) app.go(found.path);
  });
  canvas.addEventListener("pointercancel", () => { drag = null; });
  canvas.addEventListener("pointerleave", () => {
    pointed = null;
    setText(said, summary());
    paintSoon();
  });
  box.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const place = (event.clientX - canvas.getBoundingClientRect().left - names()) / width();
    zoom(event.deltaY > 0 ? 1.25 : 0.8, Math.min(1, Math.max(0, place)));
  }, { passive: false });
  box.addEventListener("scroll", paintSoon, { passive: true });
  const size = new ResizeObserver(paintSoon);
  size.observe(box);

  // the width is known once it is on the page
  requestAnimationFrame(load);

  return {
    node,
    changed() {
      if (data === null) return;
      if (end === null) paintSoon();
      if (performance.now() - askedAt > AGAIN_MS && drag === null && data !== null && until() + range * MARGIN > now()) load();
    },
    title: () => "Timeline",
    stop() {
      gone.abort();
      clearTimeout(timer);
      size.disconnect();
      if (frame !== null) cancelAnimationFrame(frame);
    },
  };
}

/** Its worst in sight is a failure, or a missed due time. */
function isBad(job) {
  return job.spans.some((span) => span.outcome === "failed") || job.not_started.some((mark) => mark.type === "missed");
}

/** A name that fits. */
function short(pen, name, room) {
  if (pen.measureText(name).width <= room) return name;
  let length = Math.max(1, Math.floor((name.length * room) / pen.measureText(name).width) - 1);
  while (length > 1 && pen.measureText(`${name.slice(0, length)}…`).width > room) length -= 1;
  return `${name.slice(0, length)}…`;
}

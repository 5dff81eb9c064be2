// What the page has beyond what it is without a script: live levels, a cursor in the waveform, places to play from.
"use strict";

const SILENT = -60;
const EVERY_MS = 1000;

function showLevel(meter, level) {
  meter.value = level === null ? SILENT : level;
  meter.nextElementSibling.textContent = level === null ? "silent" : `${Math.round(level)} dBm0`.replace("-", "−");
}

async function followLevels(place) {
  const changed = document.getElementById("changed");
  const shown = new Set([...document.querySelectorAll("[data-call-id]")].map((one) => one.dataset.callId));
  const meters = [...document.querySelectorAll("meter[data-call]")];
  const isList = changed !== null;
  for (;;) {
    await new Promise((done) => setTimeout(done, EVERY_MS));
    if (document.hidden) continue;
    let calls;
    try {
      const answer = await fetch(place.dataset.levels, { headers: { Accept: "application/json" } });
      if (answer.status === 401) return location.reload();
      if (!answer.ok) continue;
      calls = (await answer.json()).calls;
    } catch {
      continue; // the service is away: what is shown stays, and the next answer mends it
    }
    for (const meter of meters) {
      const { call, leg, way } = meter.dataset;
      showLevel(meter, Object.hasOwn(calls, call) ? calls[call][leg]?.[way] ?? null : null);
    }
    if (!isList) continue;
    const begun = Object.keys(calls).filter((id) => !shown.has(id)).length;
    const ended = [...shown].filter((id) => !Object.hasOwn(calls, id)).length;
    // Told, not done: nothing moves under a reader's finger.
    const words = [begun && `${begun} begun`, ended && `${ended} ended`].filter(Boolean).join(", ");
    if (words && changed.dataset.words !== words) {
      const link = document.createElement("a");
      link.href = location.href;
      link.textContent = "Show";
      changed.replaceChildren(`Calls: ${words}. `, link);
      changed.dataset.words = words;
    }
    changed.hidden = !words;
  }
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  const two = (number) => String(number).padStart(2, "0");
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  return `${hours ? `${hours}:${two(minutes)}` : minutes}:${two(whole % 60)}`;
}

function setUpPlayer(player) {
  const strip = player.querySelector(".strip");
  const cursor = player.querySelector(".cursor");
  const audio = player.querySelector("audio");
  const said = Number(player.dataset.duration) || 0;
  const duration = () => (Number.isFinite(audio.duration) && audio.duration > 0 ? audio.duration : said);

  function show() {
    const at = Math.min(audio.currentTime, duration());
    cursor.style.left = `${duration() ? (100 * at) / duration() : 0}%`;
    strip.setAttribute("aria-valuenow", at.toFixed(1));
    strip.setAttribute("aria-valuemax", duration().toFixed(1));
    strip.setAttribute("aria-valuetext", `${clock(at)} of ${clock(duration())}`);
  }

  function seek(at) {
    audio.currentTime = Math.max(0, Math.min(duration(), at));
    show();
  }

  function seekTo(event) {
    const box = strip.getBoundingClientRect();
    seek(((event.clientX - box.left) / box.width) * duration());
  }

  strip.setAttribute("role", "slider");
  strip.setAttribute("aria-label", "Position in the recording");
  strip.setAttribute("aria-valuemin", "0");
  strip.tabIndex = 0;
  cursor.hidden = false;
  strip.querySelector("img").draggable = false;
  strip.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    strip.setPointerCapture(event.pointerId);
    seekTo(event);
  });
  strip.addEventListener("pointermove", (event) => {
    if (strip.hasPointerCapture(event.pointerId)) seekTo(event);
  });
  const moves = {
    ArrowLeft: () => audio.currentTime - 5,
    ArrowDown: () => audio.currentTime - 5,
    ArrowRight: () => audio.currentTime + 5,
    ArrowUp: () => audio.currentTime + 5,
    PageDown: () => audio.currentTime - 30,
    PageUp: () => audio.currentTime + 30,
    Home: () => 0,
    End: () => duration(),
  };
  strip.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " ") {
      event.preventDefault();
      if (audio.paused) audio.play().catch(() => {});
      else audio.pause();
    } else if (Object.hasOwn(moves, event.key)) {
      event.preventDefault();
      seek(moves[event.key]());
    }
  });
  for (const name of ["timeupdate", "seeking", "loadedmetadata", "durationchange"]) audio.addEventListener(name, show);
  let frame = 0;
  const follow = () => {
    show();
    if (!audio.paused) frame = requestAnimationFrame(follow);
  };
  audio.addEventListener("play", () => {
    cancelAnimationFrame(frame);
    follow();
  });
  for (const link of document.querySelectorAll("a[data-at]")) {
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      seek(Number(link.dataset.at));
      audio.play().catch(() => {});
    });
  }
  show();
}

for (const place of document.querySelectorAll("[data-levels]")) followLevels(place);
for (const player of document.querySelectorAll(".player")) setUpPlayer(player);

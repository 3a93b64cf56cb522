// Numbers and times for people.

const LOCALE = "en-GB";

export function number(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value !== 0 && Math.abs(value) < 1e-4) return value.toExponential(1);
  return value.toLocaleString(LOCALE, { maximumSignificantDigits: Math.max(digits, Math.ceil(Math.log10(Math.abs(value) + 1))) });
}

export const whole = (value) => value.toLocaleString(LOCALE, { maximumFractionDigits: 0 });

export function percent(share) {
  if (share === null || share === undefined || Number.isNaN(share)) return "–";
  return `${(share * 100).toLocaleString(LOCALE, { maximumFractionDigits: share !== 0 && share < 0.01 ? 2 : 1 })} %`;
}

const LIST = new Intl.ListFormat(LOCALE, { type: "conjunction" });

// "version 2", or "versions 2, 3 and 4".
export const named = (versions) => `version${versions.length > 1 ? "s" : ""} ${LIST.format(versions.map(String))}`;

export const rate = (value) => (value >= 100 ? whole(value) : value.toLocaleString(LOCALE, { maximumFractionDigits: 1 }));

export function seconds(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  if (!Number.isFinite(value)) return "above 2.5 s"; // the last bucket has no upper bound
  if (value < 0.001) return `${number(value * 1e6, 3)} µs`;
  return value < 1 ? `${number(value * 1e3, 3)} ms` : `${number(value, 3)} s`;
}

// A time of the ledger in the reader's zone; the whole of it is in the title.
export function time(text) {
  const at = new Date(text);
  if (!text || Number.isNaN(at.getTime())) return "–";
  const shown = at.toLocaleString(LOCALE, { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" });
  const node = document.createElement("time");
  node.dateTime = text;
  node.title = text;
  node.textContent = shown;
  return node;
}

export function between(from, to) {
  const span = (new Date(to) - new Date(from)) / 1000;
  if (Number.isNaN(span)) return "–";
  if (span < 90) return `${Math.round(span)} s`;
  return span < 5400 ? `${Math.round(span / 60)} min` : `${number(span / 3600, 2)} h`;
}

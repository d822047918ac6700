// Draws a dashboard into dashboard.png. run starts this in a network namespace of its own.

import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { build } from 'esbuild';
import UPNG from 'upng-js';

const [NAME, AGAIN] = process.argv.slice(2);
const DASHBOARD = `${process.env.ROOT}/packaging/grafana/${NAME}.json`;
const { load, prometheus } = await import(NAME === 'udp-echo-mesh' ? './mesh.mjs' : './load.mjs');
// As in packaging/prometheus/scrape.yml.
const SCRAPE_SECONDS = 15;
const MINUTES = 10;
// Grafana's grid: 24 columns; the height of a cell and the space between cells, in pixels.
const WIDTHS = { 'udp-echo': 1300, 'udp-echo-mesh': 1000 };
const WIDTH = WIDTHS[NAME];
const CELL = 30;
const GAP = 8;

const dashboard = JSON.parse(readFileSync(DASHBOARD, 'utf8'));
const place = ({ x, y, w, h }) => {
  const column = (WIDTH - GAP) / 24;
  return {
    left: GAP + x * column,
    top: GAP + y * (CELL + GAP),
    width: w * column - GAP,
    height: h * (CELL + GAP) - GAP,
  };
};

const URL = 'http://127.0.0.1:9090/api/v1';
const SPAN = 'span.json';

// Ctrl-C, as the first process of a namespace.
process.on('SIGINT', () => process.exit(130));

// Grafana imports the default of a CommonJS module, which is not the component in an .mjs file.
const scrollbars = {
  name: 'scrollbars',
  setup: ({ onLoad }) =>
    onLoad({ filter: /CustomScrollbar\.mjs$/ }, ({ path }) => ({
      contents: readFileSync(path, 'utf8').replace('import Scrollbars', 'import { Scrollbars }'),
    })),
};

await build({
  entryPoints: ['../panels.jsx'],
  outfile: 'panels.js',
  bundle: true,
  format: 'esm',
  minify: true,
  jsx: 'automatic',
  define: { 'process.env.NODE_ENV': '"production"' },
  loader: { '.woff': 'dataurl', '.woff2': 'dataurl', '.ttf': 'empty' },
  plugins: [scrollbars],
  logLevel: 'error',
});
if (AGAIN === '--again') {
  await prometheus();
} else {
  writeFileSync(SPAN, JSON.stringify(await load(MINUTES)));
}
const [from, to] = JSON.parse(readFileSync(SPAN, 'utf8'));

async function ask(path, parameters) {
  const answer = await fetch(`${URL}/${path}?${new URLSearchParams(parameters)}`);
  const { status, data, error } = await answer.json();
  if (status !== 'success') throw new Error(`cannot query Prometheus: ${error}: ${parameters.query}`);
  return data.result;
}

// The preset value of a variable.
function variable(name) {
  const { current } = dashboard.templating.list.find((variable) => variable.name === name);
  return current.value === '$__all' ? '.+' : [current.value].flat().join('|');
}

// As Grafana's data source does: one point per pixel, and at most one per scrape.
async function series(target, width) {
  const step = Math.max(SCRAPE_SECONDS, Math.ceil((to - from) / width));
  const interval = Math.max(step + SCRAPE_SECONDS, 4 * SCRAPE_SECONDS);
  const query = target.expr
    .replaceAll('$__rate_interval', `${interval}s`)
    .replaceAll('$__range', `${to - from}s`)
    .replace(/"\$(\w+)"/g, (_, name) => `"${variable(name)}"`);
  const result = target.instant
    ? await ask('query', { query, time: to })
    : await ask('query_range', { query, start: from - (from % step), end: to - (to % step), step });
  const legend = (labels) =>
    (target.legendFormat ?? '').replace(/{{\s*(\w+)\s*}}/g, (_, name) => labels[name] ?? '');
  return result.map(({ metric, value, values = [value] }) => ({
    refId: target.refId,
    step: 1000 * step,
    name: legend(metric),
    labels: metric,
    times: values.map(([time]) => 1000 * time),
    values: values.map(([, number]) => Number(number)),
  }));
}

const panels = [];
for (const panel of dashboard.panels) {
  const { width, ...rest } = place(panel.gridPos);
  const answers = await Promise.all((panel.targets ?? []).map((target) => series(target, width)));
  panels.push({ panel, place: { width, ...rest }, series: answers.flat() });
}
const marks = [];
for (const annotation of dashboard.annotations.list) {
  // The value is the time (useValueForTime).
  const answers = await series(annotation, WIDTH);
  const times = new Set(answers.flatMap(({ values }) => values));
  marks.push(...[...times].map((time) => ({ time, color: annotation.iconColor })));
}

const rows = Math.max(...dashboard.panels.map(({ gridPos: { y, h } }) => y + h));
const data = JSON.stringify({ panels, marks, from: 1000 * from, to: 1000 * to });
writeFileSync('dashboard.html', `<!doctype html>
<meta charset="utf-8">
<link rel="stylesheet" href="panels.css">
<div id="root"></div>
<script>
window.__grafana_public_path__ = '../node_modules/@grafana/ui/dist/public/';
window.drawn = ${data.replaceAll('<', '\\u003c')};
</script>
<script type="module" src="panels.js"></script>
`);
execFileSync('chromium', ['--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars',
  '--allow-file-access-from-files', `--window-size=${WIDTH},${GAP + rows * (CELL + GAP)}`,
  '--virtual-time-budget=10000', '--screenshot=dashboard.png', pathToFileURL('dashboard.html').href],
  { stdio: 'ignore' });
// 256 colors are enough, and a third of the size.
const { decode, encode, toRGBA8 } = UPNG;
const picture = decode(readFileSync('dashboard.png'));
writeFileSync('dashboard.png', Buffer.from(encode(toRGBA8(picture), picture.width, picture.height, 256)));
// Ends the namespace with its processes.
process.exit();

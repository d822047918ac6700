// The panels of the dashboard, drawn by Grafana's components. Grafana's panel plugins are in no
// package: what they add to the components is here, with the defaults of their options.

import '@fontsource/inter/latin-400.css';
import '@fontsource/inter/latin-500.css';
import {
  applyFieldOverrides,
  createTheme,
  dateTime,
  FieldType,
  getDisplayValueAlignmentFactors,
  getFieldDisplayValues,
  standardFieldConfigEditorRegistry,
  standardTransformers,
  standardTransformersRegistry,
  transformDataFrame,
} from '@grafana/data';
import {
  BigValue,
  GlobalStyles,
  PanelChrome,
  Table,
  ThemeContext,
  TimeSeries,
  VizRepeater,
} from '@grafana/ui';
import { createRoot } from 'react-dom/client';
import { Heatmap } from './heatmap.jsx';

const { panels, marks, from, to } = window.drawn;
const theme = createTheme({ colors: { mode: 'light' } });
const timeZone = 'utc';
const range = { from: dateTime(from), to: dateTime(to), raw: { from: dateTime(from), to: dateTime(to) } };

const STANDARD = ['unit', 'min', 'max', 'decimals', 'displayName', 'noValue', 'color', 'thresholds', 'mappings'];
const GRAPH = {
  drawStyle: 'line',
  lineInterpolation: 'linear',
  lineWidth: 1,
  lineStyle: { fill: 'solid' },
  fillOpacity: 0,
  gradientMode: 'none',
  barAlignment: 0,
  barWidthFactor: 0.6,
  showPoints: 'auto',
  pointSize: 5,
  spanNulls: false,
  stacking: { mode: 'none', group: 'A' },
  axisPlacement: 'auto',
  axisLabel: '',
  axisColorMode: 'text',
  axisGridShow: true,
  axisBorderShow: false,
  axisCenteredZero: false,
  scaleDistribution: { type: 'linear' },
  hideFrom: { tooltip: false, viz: false, legend: false },
  thresholdsStyle: { mode: 'off' },
};
const CELLS = {
  align: 'auto',
  cellOptions: { type: 'auto' },
  inspect: false,
  minWidth: 150,
  width: undefined,
};
const DEFAULTS = {
  stat: { color: { mode: 'thresholds' }, custom: {} },
  table: { color: { mode: 'thresholds' }, custom: CELLS },
  timeseries: { color: { mode: 'palette-classic' }, custom: GRAPH },
};
const THRESHOLDS = {
  mode: 'absolute',
  steps: [{ color: 'green', value: null }, { color: 'red', value: 80 }],
};

const property = (path, isCustom) => ({
  id: isCustom ? `custom.${path}` : path,
  path,
  name: path,
  isCustom,
  process: (value) => value,
  shouldApply: () => true,
});
standardFieldConfigEditorRegistry.setInit(() => [
  ...STANDARD.map((path) => property(path, false)),
  ...Object.keys({ ...GRAPH, ...CELLS }).map((path) => property(path, true)),
]);
const { groupingToMatrixTransformer, organizeFieldsTransformer, sortByTransformer } = standardTransformers;
standardTransformersRegistry.setInit(() =>
  [groupingToMatrixTransformer, organizeFieldsTransformer, sortByTransformer].map((transformation) => ({
    id: transformation.id,
    name: transformation.name,
    transformation,
  })),
);

// JSON has null for the threshold at minus infinity.
const thresholds = ({ mode, steps }) => ({
  mode,
  steps: steps.map(({ color, value }) => ({ color, value: value ?? -Infinity })),
});

// One frame per series.
const frames = (series) =>
  series.map(({ refId, step, name, labels, times, values }) => ({
    refId,
    length: times.length,
    fields: [
      { name: 'Time', type: FieldType.time, values: times, config: { interval: step } },
      // A value that is no number is a gap.
      {
        name: 'Value',
        type: FieldType.number,
        values: values.map((value) => (Number.isFinite(value) ? value : null)),
        labels,
        config: { displayNameFromDS: name },
      },
    ],
  }));

// One frame with a row per series and a column per label.
function rows(series) {
  const names = [...new Set(series.flatMap(({ labels }) => Object.keys(labels)))].sort();
  const column = (name, type, value) => ({ name, type, values: series.map(value), config: {} });
  const fields = [
    column('Time', FieldType.time, ({ times }) => times[0]),
    ...names.map((name) => column(name, FieldType.string, ({ labels }) => labels[name] ?? '')),
    column('Value', FieldType.number, ({ values }) => values[0]),
  ];
  return [{ length: series.length, fields }];
}

const replaceVariables = (text) => text;

function transformed(transformations, data) {
  let result;
  transformDataFrame(transformations, data, { interpolate: replaceVariables }).subscribe((done) => {
    result = done;
  });
  return result;
}

function prepare({ panel, series }) {
  const { defaults, overrides } = panel.fieldConfig;
  const { custom, ...preset } = DEFAULTS[panel.type];
  const fieldConfig = {
    defaults: {
      ...preset,
      ...defaults,
      thresholds: thresholds(defaults.thresholds ?? THRESHOLDS),
      custom: { ...custom, ...defaults.custom },
    },
    overrides,
  };
  const raw = panel.type === 'table' ? transformed(panel.transformations, rows(series)) : frames(series);
  const data = applyFieldOverrides({ data: raw, fieldConfig, replaceVariables, theme, timeZone });
  return { data, fieldConfig, replaceVariables };
}

function Stat({ drawn, width, height }) {
  const { data, fieldConfig, replaceVariables } = prepare(drawn);
  const { reduceOptions, ...options } = drawn.panel.options;
  const values = () =>
    getFieldDisplayValues({ data, fieldConfig, replaceVariables, reduceOptions, theme, timeZone });
  const value = ({ value, alignmentFactors, width, height, count }) => (
    <BigValue
      {...options}
      value={value.display}
      count={count}
      alignmentFactors={alignmentFactors}
      width={width}
      height={height}
      justifyMode={options.justifyMode ?? 'auto'}
      theme={theme}
    />
  );
  return (
    <VizRepeater
      getValues={values}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      renderValue={value}
      width={width}
      height={height}
      source={data}
      itemSpacing={3}
      renderCounter={0}
      autoGrid={true}
      orientation={options.orientation ?? 'auto'}
    />
  );
}

// A dashed line with a triangle below it, as for Grafana's annotations.
function mark(plot) {
  const { ctx, bbox } = plot;
  for (const { time, color } of marks.filter(({ time }) => time >= from && time <= to)) {
    const x = Math.round(plot.valToPos(time, 'x', true));
    const bottom = bbox.top + bbox.height;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = theme.visualization.getColorByName(color);
    ctx.setLineDash([5, 5]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bottom);
    ctx.stroke();
    ctx.beginPath();
    ctx.moveTo(x, bottom);
    ctx.lineTo(x - 5, bottom + 6);
    ctx.lineTo(x + 5, bottom + 6);
    ctx.fill();
    ctx.restore();
  }
}

function Series({ drawn, width, height }) {
  const { data, fieldConfig } = prepare(drawn);
  if (data.length === 0) {
    const style = {
      height,
      display: 'flex',
      alignItems: 'center',
      justifyContent: 'center',
      textAlign: 'center',
      color: theme.colors.text.secondary,
      fontSize: theme.typography.size.lg,
    };
    return <div style={style}>{fieldConfig.defaults.noValue ?? 'No data'}</div>;
  }
  const { options } = drawn.panel;
  const legend = { showLegend: true, calcs: [], ...options.legend };
  return (
    <TimeSeries
      frames={data}
      structureRev={1}
      timeRange={range}
      timeZone={[timeZone]}
      width={width}
      height={height}
      legend={legend}
      options={options}
    >
      {(config) => {
        config.addHook('draw', mark);
      }}
    </TimeSeries>
  );
}

function Cells({ drawn, width, height }) {
  const { data, fieldConfig } = prepare(drawn);
  const { cellHeight, sortBy } = drawn.panel.options;
  return (
    <Table
      data={data[0]}
      fieldConfig={fieldConfig}
      width={width}
      height={height}
      cellHeight={cellHeight}
      initialSortBy={sortBy}
    />
  );
}

function Buckets({ drawn, width, height }) {
  return (
    <Heatmap
      {...drawn}
      theme={theme}
      timeZone={timeZone}
      range={range}
      width={width}
      height={height}
    />
  );
}

const DRAW = { heatmap: Buckets, stat: Stat, table: Cells, timeseries: Series };

function Panel({ drawn }) {
  const { panel, place } = drawn;
  const style = { position: 'absolute', ...place };
  if (panel.type === 'row') {
    return <h6 style={{ ...style, margin: 0, lineHeight: `${place.height}px` }}>{panel.title}</h6>;
  }
  const Draw = DRAW[panel.type];
  return (
    <div style={style}>
      <PanelChrome title={panel.title} description={panel.description} width={place.width} height={place.height}>
        {(width, height) => <Draw drawn={drawn} width={width} height={height} />}
      </PanelChrome>
    </div>
  );
}

// A canvas draws with the fonts that are there.
await Promise.all([400, 500].map((weight) => document.fonts.load(`${weight} 12px Inter`)));
createRoot(document.getElementById('root')).render(
  <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    {panels.map((drawn) => (
      <Panel key={drawn.panel.id} drawn={drawn} />
    ))}
  </ThemeContext.Provider>,
);

// Grafana's heat map is a plugin that is in no package. This draws what it draws for buckets of a
// histogram, with the same plots and axes below: a cell for each bucket and time, its color by the
// square root of its rate (the exponent in the options), and a scale of colors.

import { getValueFormat, formattedValueToString } from '@grafana/data';
import { UPlotChart, UPlotConfigBuilder } from '@grafana/ui';
import * as chromatic from 'd3-scale-chromatic';
import { useMemo } from 'react';

const SCALE_HEIGHT = 40;
const SCALE_WIDTH = 300;

const bound = ({ name }) => (name === '+Inf' ? Infinity : Number(name));

// Rates of the single buckets, from the cumulative ones, by time.
function cells(series) {
  const buckets = [...series].sort((one, other) => bound(one) - bound(other));
  const rows = buckets.map(({ times, values }) => new Map(times.map((time, at) => [time, values[at]])));
  const found = [];
  for (const [row, values] of rows.entries()) {
    for (const [time, value] of values) {
      const rate = value - (rows[row - 1]?.get(time) ?? 0);
      found.push({ time, row, rate });
    }
  }
  return { bounds: buckets.map(bound), found };
}

export function Heatmap({ panel, series, theme, timeZone, range, width, height }) {
  const { color, cellGap, filterValues, yAxis, cellValues } = panel.options;
  const { bounds, found, step } = useMemo(
    () => ({ ...cells(series), step: series[0]?.step }),
    [series],
  );
  const shown = found.filter(({ rate }) => rate > filterValues.le);
  const most = Math.max(...shown.map(({ rate }) => rate));
  const least = Math.min(...shown.map(({ rate }) => rate));
  const scheme = chromatic[`interpolate${color.scheme}`];
  const share = (rate) => ((rate - least) / (most - least || 1)) ** color.exponent;
  const fill = (share) => scheme(Math.round(share * (color.steps - 1)) / (color.steps - 1));
  const format = (unit, value) => formattedValueToString(getValueFormat(unit)(value));

  const builder = new UPlotConfigBuilder(timeZone);
  const [from, to] = [range.from.valueOf(), range.to.valueOf()];
  builder.addScale({ scaleKey: 'x', isTime: true, orientation: 0, direction: 1, range: [from, to] });
  builder.addScale({ scaleKey: 'y', orientation: 1, direction: 1, range: [-1, bounds.length - 1] });
  builder.addAxis({ scaleKey: 'x', isTime: true, placement: 'bottom', timeZone, theme, grid: { show: false } });
  builder.addAxis({
    scaleKey: 'y',
    placement: yAxis.axisPlacement,
    theme,
    grid: { show: false },
    // The label of a bucket is at its upper bound. Half of them are left out until the rest fits.
    splits: (plot) => {
      let rows = bounds.map((_, row) => row);
      while (rows.length > 3 && (plot.height - 15) / rows.length < 10) {
        rows = rows.filter((_, at) => at % 2 === 0);
      }
      return rows;
    },
    values: (_, rows) =>
      rows.map((row) => (bounds[row] < Infinity ? format(yAxis.unit, bounds[row]) : '+Inf')),
  });
  builder.addSeries({ scaleKey: 'y', theme, show: true, drawStyle: 'line', lineWidth: 0, showPoints: 'never' });
  builder.addHook('draw', (plot) => {
    const { ctx, bbox } = plot;
    const x = (time) => plot.valToPos(time, 'x', true);
    const y = (row) => plot.valToPos(row, 'y', true);
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    for (const { time, row, rate } of shown) {
      ctx.fillStyle = fill(share(rate));
      const [left, right] = [x(time - step), x(time)];
      const [bottom, top] = [y(row - 1), y(row)];
      ctx.fillRect(left + cellGap, top + cellGap, right - left - cellGap, bottom - top - cellGap);
    }
    ctx.restore();
  });
  const colors = Array.from({ length: 11 }, (_, at) => fill(at / 10)).join();
  const text = { fontSize: theme.typography.bodySmall.fontSize, color: theme.colors.text.primary };
  return (
    <>
      <UPlotChart
        width={width}
        height={height - SCALE_HEIGHT}
        config={builder}
        data={[[from, to], [null, null]]}
        timeRange={range}
      />
      <div style={{ width: SCALE_WIDTH, ...text }}>
        <div style={{ height: 9, background: `linear-gradient(90deg, ${colors})` }} />
        <div style={{ display: 'flex', justifyContent: 'space-between' }}>
          <span>{format(cellValues.unit, least)}</span>
          <span>{format(cellValues.unit, most)}</span>
        </div>
      </div>
    </>
  );
}

package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

// played is a row whose sides measure these values, one after the other.
func played(ours, theirs []float64) func(*stage) (measurement, measurement, error) {
	play := func(values []float64) measurement {
		if values == nil {
			return nil
		}
		i := -1
		return func(context.Context) (float64, error) {
			i++
			return values[i], nil
		}
	}
	return func(*stage) (measurement, measurement, error) { return play(ours), play(theirs), nil }
}

func TestRow(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name         string
		row          row
		ours, theirs []float64
		line         string // has this in it
		holds        bool
	}{
		{
			"the median of the ratios, not the ratio of the medians", row{bar: 2, aim: 3, unit: "1/s"},
			[]float64{2, 90, 30}, []float64{1, 100, 10}, "| 30.0 1/s |  | 10.0 1/s | 2.00× (0.90–3.00) | ≥ 2× | 3× | yes |", true,
		},
		{"below the bar", row{bar: 2.1, aim: 3}, []float64{2, 2, 2}, []float64{1, 1, 1}, "| no |", false},
		{"the aim", row{bar: 1, aim: 2}, []float64{2, 2, 2}, []float64{1, 1, 1}, "| yes, and the aim |", true},
		{"less is better", row{bar: 2, aim: 1.3, least: true}, []float64{1.5, 1.5}, []float64{1, 1}, "| ≤ 2× | 1.3× | yes |", true},
		{"and more is worse", row{bar: 2, aim: 1.3, least: true}, []float64{3, 3}, []float64{1, 1}, "| no |", false},
		{
			"with nobody beside it the worst counts", row{bar: 32, aim: 20, least: true, unit: "KiB"},
			[]float64{30, 31, 33}, nil, "| 31.0 (30.0–33.0) KiB |  |  |  | ≤ 32 KiB | 20 KiB | no |", false,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.row.start = played(test.ours, test.theirs)
			result, err := test.row.measure(t.Context(), options{pairs: len(test.ours)}, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			if line := result.String(); !strings.Contains(line, test.line) {
				t.Errorf("%s\nwant in it %s", line, test.line)
			}
			if result.holds() != test.holds {
				t.Errorf("holds: %v", result.holds())
			}
		})
	}
}

// What the stage has been asked to check at the end is the row's failure.
func TestCheck(t *testing.T) {
	t.Parallel()
	wrong := errors.New("wrong")
	r := row{start: func(s *stage) (measurement, measurement, error) {
		s.checks = append(s.checks, func() error { return wrong })
		return func(context.Context) (float64, error) { return 1, nil }, nil, nil
	}}
	if _, err := r.measure(t.Context(), options{pairs: 1}, io.Discard); !errors.Is(err, wrong) {
		t.Errorf("error %v", err)
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	all, err := choose(nil)
	if err != nil || len(all) != len(rows) {
		t.Errorf("%d rows, %v", len(all), err)
	}
	some, err := choose([]string{"start", "echo"})
	if err != nil || len(some) != 2 || some[0].name != "start" || some[1].name != "echo" {
		t.Errorf("%v, %v", some, err)
	}
	if _, err := choose([]string{"nosuch"}); err == nil || !strings.Contains(err.Error(), "reply, reply-rest,") {
		t.Errorf("error %v, want the names", err)
	}
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	for value, want := range map[float64]string{0.123: "0.12", 9.876: "9.88", 12.34: "12.3", 1234.5: "1234"} {
		if got := number(value); got != want {
			t.Errorf("%v is %s, want %s", value, got, want)
		}
	}
	for n, want := range map[int64]string{1: "1", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := group(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
}

package main

import "fmt"

// What Grafana reads, as far as it is used here. The names are those of its dashboard schema.
type (
	dashboard struct {
		UID           string     `json:"uid"`
		Title         string     `json:"title"`
		Description   string     `json:"description"`
		Tags          []string   `json:"tags"`
		SchemaVersion int        `json:"schemaVersion"`
		Editable      bool       `json:"editable"`
		GraphTooltip  int        `json:"graphTooltip"` // 1: a crosshair over all panels
		Refresh       string     `json:"refresh"`
		Time          timeRange  `json:"time"`
		Timezone      string     `json:"timezone"`
		Templating    templating `json:"templating"`
		Annotations   struct{}   `json:"annotations"`
		Panels        []panel    `json:"panels"`
	}
	timeRange struct {
		From string `json:"from"`
		To   string `json:"to"`
	}
	templating struct {
		List []variable `json:"list"`
	}
	variable struct {
		Name       string      `json:"name"`
		Label      string      `json:"label"`
		Type       string      `json:"type"`
		Query      string      `json:"query"`
		Datasource *datasource `json:"datasource,omitempty"`
		Refresh    int         `json:"refresh,omitempty"` // 2: when the time range changes
		Sort       int         `json:"sort,omitempty"`
		Multi      bool        `json:"multi"`
		IncludeAll bool        `json:"includeAll"`
		AllValue   string      `json:"allValue,omitempty"`
		Current    *current    `json:"current,omitempty"`
	}
	current struct {
		Text  []string `json:"text"`
		Value []string `json:"value"`
	}
	datasource struct {
		Type string `json:"type"`
		UID  string `json:"uid"`
	}
	panel struct {
		ID          int          `json:"id"`
		Type        string       `json:"type"`
		Title       string       `json:"title"`
		Description string       `json:"description,omitempty"`
		GridPos     gridPos      `json:"gridPos"`
		Collapsed   *bool        `json:"collapsed,omitempty"` // of a row
		Panels      *[]panel     `json:"panels,omitempty"`    // of a row: what it hides while it is collapsed
		Datasource  *datasource  `json:"datasource,omitempty"`
		Targets     []target     `json:"targets,omitempty"`
		FieldConfig *fieldConfig `json:"fieldConfig,omitempty"`
		Options     any          `json:"options,omitempty"`
	}
	gridPos struct {
		H int `json:"h"`
		W int `json:"w"`
		X int `json:"x"`
		Y int `json:"y"`
	}
	target struct {
		RefID        string      `json:"refId"`
		Datasource   *datasource `json:"datasource"`
		Expr         string      `json:"expr"`
		LegendFormat string      `json:"legendFormat,omitempty"`
		Format       string      `json:"format,omitempty"`
		Instant      bool        `json:"instant"`
		Range        bool        `json:"range"`
		Exemplar     bool        `json:"exemplar"`
	}
	fieldConfig struct {
		Defaults  fieldDefaults `json:"defaults"`
		Overrides []struct{}    `json:"overrides"`
	}
	fieldDefaults struct {
		Unit       string         `json:"unit"`
		Min        *float64       `json:"min,omitempty"`
		Max        *float64       `json:"max,omitempty"`
		Decimals   *int           `json:"decimals,omitempty"`
		Custom     map[string]any `json:"custom,omitempty"`
		Color      map[string]any `json:"color,omitempty"`
		Thresholds *thresholds    `json:"thresholds,omitempty"`
	}
	thresholds struct {
		Mode  string `json:"mode"`
		Steps []step `json:"steps"`
	}
	step struct {
		Color string   `json:"color"`
		Value *float64 `json:"value"` // nil: from the bottom
	}
)

var prometheus = &datasource{Type: "prometheus", UID: "${datasource}"}

// newDashboard lays the panels out, row by row and from left to right, as they come.
func newDashboard() dashboard {
	d := dashboard{
		UID: "probed", Title: "probed", Tags: []string{"probed"},
		Description:   "What probed is asked, what it finds, how near to its limits it is, and who is refused.",
		SchemaVersion: 42, Editable: true, GraphTooltip: 1, Refresh: "30s", Timezone: "browser",
		Time: timeRange{From: "now-3h", To: "now"},
		Templating: templating{List: []variable{
			{Name: "datasource", Label: "Data source", Type: "datasource", Query: "prometheus"},
			labelVariable("job", "Job", "probed_build_info"),
			labelVariable("namespace", "Namespace", `probed_build_info{job=~"$job"}`),
			labelVariable("node", "Node", `probed_build_info{job=~"$job",namespace=~"$namespace"}`),
			labelVariable("instance", "Instance", `probed_build_info{job=~"$job",namespace=~"$namespace",node=~"$node"}`),
		}},
	}
	id, y := 0, 0
	next := func() int { id++; return id }
	for _, row := range rows {
		d.Panels = append(d.Panels, panel{
			ID: next(), Type: "row", Title: row.title, GridPos: gridPos{H: 1, W: width, Y: y}, Collapsed: new(bool), Panels: &[]panel{},
		})
		y++
		x, height := 0, 0
		for _, g := range row.graphs {
			w, h := g.size()
			if x+w > width {
				x, y, height = 0, y+height, 0
			}
			p := g.panel()
			p.ID, p.GridPos = next(), gridPos{H: h, W: w, X: x, Y: y}
			d.Panels = append(d.Panels, p)
			x, height = x+w, max(height, h)
		}
		y += height
	}
	return d
}

// width is how many columns Grafana has.
const width = 24

// labelVariable is some values of a label, at first all. Where a label may be missing, as without Kubernetes there is no
// namespace, all are also those without.
func labelVariable(name, label, of string) variable {
	v := variable{
		Name: name, Label: label, Type: "query", Query: fmt.Sprintf("label_values(%s, %s)", of, name), Datasource: prometheus,
		Refresh: 2, Sort: 1, Multi: true, IncludeAll: true, Current: &current{Text: []string{"All"}, Value: []string{"$__all"}},
	}
	if name == "namespace" || name == "node" {
		v.AllValue = ".*"
	}
	return v
}

// size is how much room a graph takes.
func (g graph) size() (w, h int) {
	switch g.kind {
	case "stat":
		return 4, 4
	default:
		return 8, 8
	}
}

func (g graph) panel() panel {
	p := panel{
		Type: g.kind, Title: g.title, Description: g.description, Datasource: prometheus,
		FieldConfig: &fieldConfig{Defaults: fieldDefaults{Unit: g.unit}, Overrides: []struct{}{}},
	}
	zero := 0.0
	defaults := &p.FieldConfig.Defaults
	switch g.kind {
	case "stat":
		p.Options = map[string]any{
			"colorMode": "value", "graphMode": "none", "textMode": "auto", "justifyMode": "auto", "orientation": "auto",
			"wideLayout": true, "showPercentChange": false, "percentChangeColorMode": "standard",
			"reduceOptions": map[string]any{"calcs": []string{"lastNotNull"}, "fields": "", "values": false},
		}
		defaults.Color = map[string]any{"mode": "thresholds"}
		defaults.Thresholds = &thresholds{Mode: "absolute", Steps: []step{{Color: "green"}}}
		for _, s := range g.steps {
			defaults.Thresholds.Steps = append(defaults.Thresholds.Steps, step{s.color, &s.from})
		}
		if g.below != "" {
			defaults.Thresholds.Steps[0].Color = g.below
		}
	case "heatmap":
		p.Options = map[string]any{
			"calculate": false, "cellGap": 1,
			"color":   map[string]any{"mode": "scheme", "scheme": "Oranges", "scale": "exponential", "exponent": 0.5, "steps": 64, "reverse": false, "fill": "dark-orange"},
			"yAxis":   map[string]any{"unit": "s", "axisPlacement": "left", "reverse": false},
			"tooltip": map[string]any{"mode": "single", "showColorScale": true, "yHistogram": false},
			"legend":  map[string]any{"show": true}, "rowsFrame": map[string]any{"layout": "auto"}, "showValue": "never",
			"filterValues": map[string]any{"le": 1e-9}, "exemplars": map[string]any{"color": "rgba(255,0,255,0.7)"},
		}
	default:
		p.Options = map[string]any{
			"legend":  map[string]any{"displayMode": "table", "placement": "bottom", "showLegend": true, "calcs": []string{"lastNotNull", "max"}},
			"tooltip": map[string]any{"mode": "multi", "sort": "desc"},
		}
		defaults.Custom = map[string]any{"lineWidth": 1, "fillOpacity": 10, "showPoints": "never"}
		if g.stacked {
			defaults.Custom["stacking"] = map[string]any{"mode": "normal", "group": "A"}
			defaults.Custom["fillOpacity"] = 40
		}
		defaults.Min = &zero
		if g.unit == "percentunit" {
			one := 1.0
			defaults.Max = &one
		}
	}
	for i, q := range g.queries {
		t := target{RefID: string(rune('A' + i)), Datasource: prometheus, Expr: q.expr, LegendFormat: q.legend}
		t.Instant, t.Range = g.kind == "stat", g.kind != "stat"
		if t.Range && q.exemplars {
			t.Exemplar = true
		}
		if g.kind == "heatmap" {
			t.Format = "heatmap"
		}
		p.Targets = append(p.Targets, t)
	}
	return p
}

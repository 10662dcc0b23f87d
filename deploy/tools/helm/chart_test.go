package helm

import (
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"
)

const (
	root  = "../../.."
	chart = root + "/deploy/helm/anteroom"
)

// kinds are the types of what the chart makes. Those of the Prometheus Operator are not
// checked, because its module is large.
var kinds = map[string]any{
	"v1 ConfigMap":                            corev1.ConfigMap{},
	"v1 Secret":                               corev1.Secret{},
	"v1 Service":                              corev1.Service{},
	"apps/v1 Deployment":                      appsv1.Deployment{},
	"apps/v1 StatefulSet":                     appsv1.StatefulSet{},
	"autoscaling/v2 HorizontalPodAutoscaler":  autoscalingv2.HorizontalPodAutoscaler{},
	"networking.k8s.io/v1 Ingress":            networkingv1.Ingress{},
	"networking.k8s.io/v1 NetworkPolicy":      networkingv1.NetworkPolicy{},
	"policy/v1 PodDisruptionBudget":           policyv1.PodDisruptionBudget{},
	"monitoring.coreos.com/v1 PodMonitor":     map[string]any{},
	"monitoring.coreos.com/v1 PrometheusRule": map[string]any{},
}

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // Helm reports each symbolic link
	os.Exit(m.Run())
}

// render returns the documents that the chart makes with values, by kind and name.
func render(t *testing.T, values map[string]any) (map[string]string, error) {
	t.Helper()
	// To YAML, "on" without quotes is no string.
	return renderAs(t, "on", values)
}

func renderAs(t *testing.T, name string, values map[string]any) (map[string]string, error) {
	t.Helper()
	c, err := loader.Load(chart)
	if err != nil {
		t.Fatal(err)
	}
	release := chartutil.ReleaseOptions{Name: name, Namespace: "ns", IsInstall: true}
	all, err := chartutil.ToRenderValues(c, values, release, nil)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return nil, err
	}
	documents := make(map[string]string)
	for name, text := range files {
		if !strings.HasSuffix(name, ".yaml") {
			continue
		}
		for document := range strings.SplitSeq(text, "\n---\n") {
			var head struct {
				APIVersion, Kind string
				Metadata         struct{ Name string }
			}
			if err := yaml.Unmarshal([]byte(document), &head); err != nil {
				t.Fatalf("%s: %v\n%s", name, err, document)
			}
			if head.Kind != "" {
				documents[head.APIVersion+" "+head.Kind+" "+head.Metadata.Name] = document
			}
		}
	}
	return documents, nil
}

func parse(t *testing.T, text string) map[string]any {
	t.Helper()
	var values map[string]any
	if err := yaml.UnmarshalStrict([]byte(text), &values); err != nil {
		t.Fatal(err)
	}
	return values
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestValues lints the chart, as helm lint --strict does, and decodes what it makes into the
// types of the Kubernetes API, with each file of values in ci and with none.
func TestValues(t *testing.T) {
	files, err := filepath.Glob(chart + "/ci/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no values in ci", err)
	}
	made := make(map[string]bool)
	for _, file := range append(files, "/dev/null") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			values := parse(t, read(t, file))
			for _, message := range lint.All(chart, values, "ns", true).Messages {
				if message.Severity >= support.WarningSev {
					t.Error(message)
				}
			}
			documents, err := render(t, values)
			if err != nil {
				t.Fatal(err)
			}
			for name, text := range documents {
				kind := name[:strings.LastIndexByte(name, ' ')]
				zero, ok := kinds[kind]
				if !ok {
					t.Errorf("%s is of no kind that this test knows", name)
					continue
				}
				made[kind] = true
				object := reflect.New(reflect.TypeOf(zero)).Interface()
				if err := yaml.UnmarshalStrict([]byte(text), object); err != nil {
					t.Errorf("%s: %v\n%s", name, err, text)
				}
			}
		})
	}
	for kind := range kinds {
		if !made[kind] {
			t.Errorf("no file in ci makes a %s", kind)
		}
	}
}

// TestRefused gives values that must be refused, and checks that the message names the reason.
func TestRefused(t *testing.T) {
	for values, want := range map[string]string{
		"gatway: {}": "'gatway' not allowed",
		"gateway: {podLabels: {app.kubernetes.io/name: x}}":        "/gateway/podLabels",
		"redis: {podAnnotations: {checksum/config: x}}":            "/redis/podAnnotations",
		"gateway: {autoscaling: {enabled: true, minReplicas: 11}}": "more than maxReplicas",
		"gateway: {replicas: 0}":                                   "/gateway/replicas",
		"gateway: {drainTimeout: 31}":                              "/gateway/drainTimeout",
		"gateway: {settings: {MESAGE_RATE: 1}}":                    "'MESAGE_RATE' not allowed",
		"gateway: {settings: {REDIS: redis://r/0}}":                "'REDIS' not allowed",
		"gateway: {settings: {DRAIN_TIMEOUT: 5s}}":                 "'DRAIN_TIMEOUT' not allowed",
		"gateway: {settings: {LOG_LEVEL: [debug]}}":                "/gateway/settings/LOG_LEVEL",
		"gateway: {resources: {limits: {memory: 1G}}}":             "/gateway/resources/limits/memory",
		"gateway: {pod: {containers: []}}":                         "'containers' not allowed",
		"room: {settings: {PARTITIONS: 8}}":                        "'PARTITIONS' not allowed",
		"partitions: 5000":                                         "/partitions",
		"image: {tag: 1.10}":                                       "/image/tag",
		"redis: {url: 'redis://:secret@r:6379/0'}":                 "/redis/url",
		"redis: {url: 'redis://r:6379/0', existingSecret: s}":      "leave one empty",
		"redis: {maxmemory: 640}":                                  "/redis/maxmemory",
		"ingress: {enabled: true}":                                 "/ingress/hosts",
		"monitoring: {annotations: true}":                          "networkPolicy.metricsFrom is empty",
	} {
		if _, err := render(t, parse(t, values)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\nerror: %v\nwant one that contains %q", values, err, want)
		}
	}
}

// TestNames renders a release with the longest name that Helm allows. A pod of a StatefulSet has
// a label with the set's name and 11 characters more, and labels have 63 at most.
func TestNames(t *testing.T) {
	documents, err := renderAs(t, strings.Repeat("a", 53), map[string]any{"image": map[string]any{"tag": strings.Repeat("b", 62) + "-b"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range documents {
		if kind, name, _ := strings.Cut(strings.TrimPrefix(name, "apps/v1 "), " "); kind == "StatefulSet" && len(name) > 63-11 {
			t.Errorf("%s has %d characters", name, len(name))
		}
		if version := regexp.MustCompile(`app.kubernetes.io/version: "(.*)"`).FindStringSubmatch(text); version != nil && (len(version[1]) > 63 || strings.HasSuffix(version[1], "-")) {
			t.Errorf("%s has the version %s", name, version[1])
		}
	}
}

// TestSettings compares the settings that the chart accepts or sets itself with the tables in
// the README.
func TestSettings(t *testing.T) {
	var schema struct {
		Properties map[string]struct {
			Properties map[string]struct{ Properties map[string]any }
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, chart+"/values.schema.json")), &schema); err != nil {
		t.Fatal(err)
	}
	documents, err := render(t, map[string]any{"gateway": map[string]any{"settings": map[string]any{"MAX_SOCKETS": nil}}})
	if err != nil {
		t.Fatal(err)
	}
	readme := read(t, root+"/README.md")
	for _, component := range []string{"gateway", "room"} {
		_, table, _ := strings.Cut(readme, "\n**"+component+"**\n")
		table, _, _ = strings.Cut(table, "\n**")
		var want []string
		for _, row := range regexp.MustCompile("(?m)^\\| `--[^|]*\\| `([A-Z_]+)`").FindAllStringSubmatch(table, -1) {
			want = append(want, row[1])
		}
		// The images set the addresses, and a health check is not for a container that runs.
		got := []string{"LISTEN", "ADMIN_LISTEN", "HEALTHCHECK"}
		var deployment appsv1.Deployment
		if err := yaml.Unmarshal([]byte(documents["apps/v1 Deployment on-anteroom-"+component]), &deployment); err != nil {
			t.Fatal(err)
		}
		for _, variable := range deployment.Spec.Template.Spec.Containers[0].Env {
			if !strings.HasPrefix(variable.Name, "GO") {
				got = append(got, variable.Name)
			}
		}
		got = slices.AppendSeq(got, maps.Keys(schema.Properties[component].Properties["settings"].Properties))
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s\nchart:  %v\nREADME: %v", component, got, want)
		}
	}
}

// TestRedis compares the chart's Redis with that of docker-compose.yml.
func TestRedis(t *testing.T) {
	documents, err := render(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	var set appsv1.StatefulSet
	var config corev1.ConfigMap
	for name, object := range map[string]any{"apps/v1 StatefulSet on-anteroom-redis": &set, "v1 ConfigMap on-anteroom-redis": &config} {
		if err := yaml.Unmarshal([]byte(documents[name]), object); err != nil {
			t.Fatal(err)
		}
	}
	if image := set.Spec.Template.Spec.Containers[0].Image; !strings.Contains(read(t, root+"/docker-compose.yml"), "\n    image: "+image+"\n") {
		t.Errorf("docker-compose.yml has another image than %s", image)
	}
	for _, name := range []string{"redis.conf", "start.sh"} {
		if config.Data[name] != read(t, root+"/deploy/redis/"+name) {
			t.Errorf("%s is not as in deploy/redis:\n%s", name, config.Data[name])
		}
	}
}

// Package helm checks the chart in deploy/helm/anteroom. It has only tests.
package helm

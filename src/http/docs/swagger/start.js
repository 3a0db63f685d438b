// Starts Swagger UI with the OpenAPI document of this host. The token that a reader enters stays in the memory of the page.
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  deepLinking: true,
  filter: true,
  persistAuthorization: false,
  queryConfigEnabled: false,
  // No validator of another host.
  validatorUrl: null,
});

// Gamma and beta, as the reduction before this dispatch left them where coefficients are written now.

fn gammas_at(at: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(prepared[at.x].x, prepared[at.y].x, prepared[at.z].x, prepared[at.w].x);
}

fn betas_at(at: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(prepared[at.x].y, prepared[at.y].y, prepared[at.z].y, prepared[at.w].y);
}
